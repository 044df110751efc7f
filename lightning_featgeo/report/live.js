"use strict";
// The live page: looks whether the histories have grown, and loads itself anew if so, with the same switches.
(() => {
  const EVERY = 2000;
  const seen = document.documentElement.dataset.version;
  const inputs = () => [...document.querySelectorAll(".bar input")];
  const nameOf = (input) => `${input.name}|${input.closest("label")?.textContent.trim()}`;

  const kept = JSON.parse(sessionStorage.getItem("featgeo") ?? "null");
  if (kept) {
    for (const input of inputs()) if (kept.checked[nameOf(input)] === !input.checked) input.click();
    if (document.documentElement.dataset.theme !== kept.theme) document.getElementById("theme")?.click();
    requestAnimationFrame(() => scrollTo(0, kept.scroll));
  }

  function again() {
    const checked = Object.fromEntries(inputs().map((input) => [nameOf(input), input.checked]));
    const theme = document.documentElement.dataset.theme;
    sessionStorage.setItem("featgeo", JSON.stringify({ checked, theme, scroll: scrollY }));
    location.reload();
  }

  async function look() {
    const told = document.getElementById("live");
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if ((await answer.text()) !== seen) return again();
      told.textContent = "Live: this page follows the run.";
    } catch {
      told.textContent = "No longer live: the command that serves this page has ended.";
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
