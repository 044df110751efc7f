"use strict";
// The live page: looks whether the histories have grown, and loads itself anew if so, with the same switches.
(() => {
  const EVERY = 2000, KEY = "featgeo";
  const root = document.documentElement;
  const inputs = () => [...document.querySelectorAll(".bar input")];
  const folds = () => [...document.querySelectorAll("details")];
  const nameOf = (input) => `${input.name}|${input.closest("label")?.textContent.trim()}`;
  const placeOf = (fold) => `${fold.closest("article, li")?.querySelector("h2, h3")?.textContent}|${fold.textContent.slice(0, 40)}`;

  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  sessionStorage.removeItem(KEY); // a page that its reader loads begins as it comes
  if (kept) {
    for (const input of inputs()) if (kept.checked[nameOf(input)] === !input.checked) input.click();
    for (const fold of folds()) fold.open ||= kept.open.includes(placeOf(fold));
    if (kept.theme && root.dataset.theme !== kept.theme) document.getElementById("theme")?.click();
    requestAnimationFrame(() => scrollTo(0, kept.scroll));
  }

  function again() {
    const checked = Object.fromEntries(inputs().map((input) => [nameOf(input), input.checked]));
    const open = folds().filter((fold) => fold.open).map(placeOf);
    const theme = document.getElementById("theme") ? root.dataset.theme : null;
    sessionStorage.setItem(KEY, JSON.stringify({ checked, open, theme, scroll: scrollY }));
    location.reload();
  }

  const told = document.getElementById("live");
  async function look() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      if ((await answer.text()) !== root.dataset.version) return again();
      told.textContent = told.dataset.stale || "Live: this page follows the run.";
    } catch {
      told.textContent = "No longer live: the command that serves this page has ended.";
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
