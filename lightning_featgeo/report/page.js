"use strict";
// Draws each panel when it comes into view; the controls at the top draw again. No request leaves this page.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const state = { axis: "epoch", errors: true, hidden: new Set() };
  const root = document.documentElement;
  const views = new Map();
  const MANY = 500; // points from which on a canvas is faster than SVG (1,000: 0.18 s a chart, not 0.35)

  const config = () => {
    const style = getComputedStyle(root);
    const [text, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: "transparent" },
      axis: { labelColor: soft, titleColor: soft, domainColor: line, tickColor: line, gridColor: line, gridOpacity: 0.6,
        labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal" },
      legend: { labelColor: soft, titleColor: text },
    };
  };

  function rows(panels) {
    const curve = [], band = [], lone = [], gap = [], mark = [];
    for (const [panel, one] of panels.flatMap((panel) => panel.curves.map((one) => [panel, one]))) {
      if (state.hidden.has(one.run)) continue;
      const run = page.runs[one.run].name, axis = page.axes[one.axis];
      const missing = (i) => (one.value[i] ?? null) === null;
      one.value.forEach((value, i) => {
        const error = one.error ? one.error[i] : null;
        const row = { run, against: panel.against, epoch: axis.epoch[i], step: axis.step[i], value, error: error === null ? "none known" : "±" + error };
        const banded = error !== null && value !== null;
        curve.push(row);
        band.push({ ...row, low: banded ? value - error : null, high: banded ? value + error : null });
        if (value === null) gap.push({ ...row, why: page.reasons[one.gaps[i]] });
        else if (missing(i - 1) && missing(i + 1)) lone.push(row);
      });
      for (const each of panel === panels[0] ? page.marks : []) {
        if (each.run === one.run && each.stage === panel.stage && each.layer === panel.layer) mark.push({ ...each, run });
      }
    }
    const valid = curve.filter((row) => row.value !== null);
    const banded = state.errors && band.some((row) => row.low !== null);
    return { curve: valid.length ? curve : [], valid, band: banded ? band : [], lone, gap, mark };
  }

  function spectrumRows(panel) {
    const curve = [];
    for (const line of panel.lines) line.rank.forEach((rank, i) => {
      if (line.value[i] > 0) curve.push({ epoch: line.epoch, rank, value: line.value[i] });
    });
    return { curve };
  }

  const chosen = (kind, index) => Number(document.querySelector(`[data-frames='${kind}-${index}']`).value);

  function matrixRows(index) {
    const { names, frames } = page.matrices[index];
    const { rows } = frames[chosen("matrix", index)];
    const unlike = names.map((name, i) => (names.indexOf(name) === i ? name : `${name} (${i + 1})`));
    const value = (i, j) => (i === j ? 1 : rows[Math.max(i, j)][Math.min(i, j)]);
    return unlike.flatMap((row, i) => unlike.map((column, j) => ({ row, column, value: value(i, j) })));
  }

  // The rows of the chosen window, from -1 to 1: over the largest of all windows, or over its own.
  function layoutRows(index) {
    const { frames, samples, labels, classes } = page.layouts[index];
    const at = chosen("layout", index);
    const one = document.querySelector(`[data-scale='${index}']`).checked;
    let known = at;
    while (!frames[known].rows) known -= 1; // the same rows as in the window before
    const extent = (frame) => frame.unit * frame.points.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const { points, unit } = frames[at];
    const largest = (one ? Math.max(...frames.map(extent)) : extent(frames[at])) || 1;
    return frames[known].rows.map((row, i) => ({
      x: points[2 * i] * unit / largest, y: points[2 * i + 1] * unit / largest,
      sample: samples[row], class: labels[row] < 0 ? "unlabelled" : classes[labels[row]],
    }));
  }

  function matrixSpec(spec, box) {
    spec.width = spec.height = Math.min(spec.height, Math.max(120, box.clientWidth - 130));
  }

  function layoutSpec(spec, box) {
    const { classes, labels, coloured } = page.layouts[box.dataset.panel];
    spec.width = spec.height = Math.min(spec.height, box.clientWidth - 12);
    const encoding = spec.layer[0].encoding;
    if (coloured) {
      const domain = labels.includes(-1) ? [...classes, "unlabelled"] : classes;
      encoding.color.scale = { domain, scheme: domain.length > 10 ? "tableau20" : "tableau10" };
    } else delete encoding.color;
    if (!classes.length) encoding.tooltip = encoding.tooltip.filter((each) => each.field !== "class");
  }

  function outcomeRows() {
    const runs = new Set(page.runs.filter((_, i) => !state.hidden.has(i)).map((run) => run.name));
    const curve = page.outcome.points.filter((point) => runs.has(point.run));
    const ends = page.outcome.axes.flatMap(({ axis, low, high }) => [{ axis, place: -0.07, text: low }, { axis, place: 1.07, text: high }]);
    return { curve, ends };
  }

  // What is nearest to the pointer holds its row as `datum.datum`. Vega-Lite says so for numbers, but not for names.
  function unwrapNames(mark) {
    if (mark.name?.endsWith("voronoi")) {
      const tooltip = mark.encode.update.tooltip;
      tooltip.signal = tooltip.signal.replaceAll(/datum(?=\["(run|error)"\])/g, "datum.datum").replaceAll("datum.datum.datum", "datum.datum");
    }
    mark.marks?.forEach(unwrapNames);
    return mark;
  }

  async function draw(box) {
    const several = (box.dataset.panel ?? "").includes(" "); // the same measure against different windows
    const kind = box.dataset.kind ?? state.axis + (several ? "-together" : "");
    const text = JSON.stringify(page.specs[kind]);
    const style = getComputedStyle(root); // colours are variables: light and dark differ
    const colour = (given) => (typeof given !== "string" ? given
      : given.replace(/^var\((--[\w-]+)\)$/, (_, name) => style.getPropertyValue(name).trim()));
    const spec = JSON.parse(text, (key, value) => (key === "range" && Array.isArray(value) ? value.map(colour)
      : key === "color" ? colour(value) : value));
    if (kind === "layout") layoutSpec(spec, box);
    if (kind === "matrix") matrixSpec(spec, box);
    spec.datasets = kind === "outcome" ? outcomeRows()
      : kind === "layout" ? { curve: layoutRows(box.dataset.panel) }
      : kind === "matrix" ? { curve: matrixRows(box.dataset.panel) }
      : kind === "spectrum" ? spectrumRows(page.spectra[box.dataset.panel])
      : rows(box.dataset.panel.split(" ").map((index) => page.panels[index]));
    spec.layer = spec.layer.filter((layer) => spec.datasets[layer.data?.name ?? "curve"].length);
    const turn = (views.get(box)?.turn ?? 0) + 1;
    views.get(box)?.view?.finalize();
    views.set(box, { turn });
    if (!spec.datasets.curve.length) {
      box.textContent = state.hidden.size ? "No run is shown here." : "No window has a value: see Numbers for the reasons.";
      box.dataset.drawn = String(turn);
      return;
    }
    try {
      const embedded = await vegaEmbed(box, spec, {
        actions: false, config: config(), patch: unwrapNames,
        renderer: spec.datasets.curve.length > MANY ? "canvas" : "svg",
        tooltip: { theme: root.dataset.theme === "dark" ? "dark" : "light" },
      });
      if (views.get(box).turn !== turn) return embedded.finalize(); // drawn again meanwhile
      views.set(box, { turn, view: embedded });
      box.dataset.drawn = String(turn);
    } catch (error) {
      box.textContent = "This chart can't be drawn: " + error.message;
      console.error(error);
    }
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "300px" });

  const boxes = [...document.querySelectorAll(".chart")];
  function again() {
    for (const box of boxes) {
      if (!views.has(box)) continue;
      if (box.offsetParent) draw(box);
      else { // hidden: it has no width to draw into, so it is drawn when it comes back
        views.get(box).view?.finalize();
        views.delete(box);
        watcher.observe(box);
      }
    }
  }
  boxes.forEach((box) => watcher.observe(box));
  let theme = "light"; // of the screen: paper is light
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    boxes.filter((box) => box.offsetParent && (theme === "dark" || !views.has(box))).forEach(draw);
  });
  addEventListener("afterprint", () => { if (theme === "dark") setTheme(theme); });

  // --- controls ------------------------------------------------------------------------------------------------
  const preference = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = document.getElementById("theme");
  function setTheme(theme) {
    root.dataset.theme = theme;
    themeButton.textContent = theme === "dark" ? "Light page" : "Dark page";
    again();
  }
  setTheme(preference.matches ? "dark" : "light");
  preference.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  themeButton.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

  for (const input of document.querySelectorAll("input[name=axis]")) {
    input.addEventListener("change", () => { state.axis = input.value; again(); });
  }
  document.getElementById("errors").addEventListener("change", (event) => { state.errors = event.target.checked; again(); });
  for (const input of document.querySelectorAll("input[data-run]")) {
    input.addEventListener("change", () => {
      state.hidden[input.checked ? "delete" : "add"](Number(input.dataset.run));
      document.querySelectorAll(`[data-of='${input.dataset.run}']`).forEach((one) => { one.hidden = !input.checked; });
      again();
    });
  }
  for (const input of document.querySelectorAll("input[data-part]")) {
    input.addEventListener("change", () => { document.getElementById(input.dataset.part).hidden = !input.checked; });
  }

  for (const slider of document.querySelectorAll("input[data-frames]")) {
    const [kind, index] = slider.dataset.frames.split("-");
    const box = document.querySelector(`[data-kind='${kind}'][data-panel='${index}']`);
    const told = document.querySelector(`output[data-frame='${slider.dataset.frames}']`);
    const tell = () => {
      const { epoch, share } = page[kind === "layout" ? "layouts" : "matrices"][index].frames[slider.value];
      told.textContent = `epoch ${epoch}` + (share === undefined ? "" : `: ${Math.round(100 * share)} % of the variance`);
      slider.setAttribute("aria-valuetext", told.textContent);
    };
    const again = kind === "layout" ? layoutRows : matrixRows;
    const move = () => { tell(); views.get(box)?.view?.view.data("curve", again(index)).run(); };
    slider.addEventListener("input", move);
    if (kind === "layout") document.querySelector(`[data-scale='${index}']`).addEventListener("change", move);
    tell();
  }

  // --- numbers -------------------------------------------------------------------------------------------------
  const header = ["run", "stage", "layer", "signal", "epoch", "step", "value", "standard_error", "gap"];
  function* records(panel) {
    for (const one of panel.curves) {
      const axis = page.axes[one.axis];
      for (let i = 0; i < one.value.length; i++) {
        const why = one.value[i] === null ? page.reasons[one.gaps[i]] : "";
        yield [page.runs[one.run].name, panel.stage, panel.layer ?? "", panel.signal, axis.epoch[i], axis.step[i],
          one.value[i] ?? "", one.error?.[i] ?? "", why];
      }
    }
  }
  const guard = (text) => text.replace(/(^|[;\t\r\n]\s*)([=+\-@])/g, "$1'$2"); // a spreadsheet would run it; ";" parts cells, too
  const cell = (value) => {
    const text = typeof value === "number" ? String(value) : guard(String(value));
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  function download(panels, name) {
    const lines = [header.join(",")];
    for (const panel of panels) for (const record of records(panel)) lines.push(record.map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  document.getElementById("csv").addEventListener("click", () => download(page.panels, "featgeo.csv"));
  for (const button of document.querySelectorAll("button[data-csv]")) {
    const panel = page.panels[button.dataset.csv];
    button.addEventListener("click", () => download([panel], `featgeo-${panel.stage}-${panel.signal}.csv`));
  }
  for (const details of document.querySelectorAll("details[data-numbers]")) {
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("table")) return;
      const table = document.createElement("table");
      const row = (kind, values) => {
        const line = table.insertRow();
        values.forEach((value, i) => {
          const cell = document.createElement(kind);
          cell.textContent = value;
          if (kind === "th") cell.scope = "col";
          if (kind === "td" && i === 5 && value !== "") cell.className = "why";
          line.append(cell);
        });
      };
      row("th", ["run", "epoch", "step", "value", "± standard error", "no value because"]);
      for (const r of records(page.panels[details.dataset.numbers])) row("td", [r[0], r[4], r[5], r[6], r[7], r[8]]);
      details.querySelector(".numbers").append(table);
    });
  }
})();
