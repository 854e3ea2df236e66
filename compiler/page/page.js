// Draws the charts of the task that is shown, and moves between tasks, themes and times.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const drawn = new Map(); // chart element -> what vega-embed gave
  const spans = {}; // task -> [first cycle, last cycle] of its timeline

  // ---- theme -------------------------------------------------------------------------------
  const themes = ["auto", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let theme = "auto";

  function showTheme() {
    const dark = theme === "dark" || (theme === "auto" && system.matches);
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system has it" : theme}`);
    redraw();
  }
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    showTheme();
  });
  system.addEventListener("change", showTheme);

  // ---- charts ------------------------------------------------------------------------------
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Puts in the theme's colours; what stands in `values` is data and stays as it is.
  function paint(node) {
    if (typeof node === "string") return node.startsWith("@") ? colour(node.slice(1)) : node;
    if (Array.isArray(node)) return node.map(paint);
    if (node === null || typeof node !== "object") return node;
    const entries = Object.entries(node);
    return Object.fromEntries(
      entries.map(([key, value]) => [
        key, ["values", "domain", "sort", "description"].includes(key) ? value : paint(value),
      ]));
  }

  function config(width, label) {
    const narrow = width < 620;
    const ink = colour("ink"), faint = colour("line"), soft = colour("soft");
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: null,
      font,
      view: { stroke: null },
      axis: {
        labelColor: ink, titleColor: soft, gridColor: faint, domainColor: faint, tickColor: faint,
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, titlePadding: 8,
        labelLimit: 200, labelPadding: 6,
      },
      axisY: { grid: false, ticks: false, domain: false },
      legend: {
        orient: "top", labelColor: ink, titleColor: soft, labelFontSize: 12, titleFontSize: 12,
        titleFontWeight: 500, labelLimit: 240,
        columns: Math.max(1, Math.floor((width - 160) / label)), // beside axis and title
        symbolStrokeWidth: 0,
        symbolType: "square", titleOrient: narrow ? "top" : "left", offset: 12,
      },
    };
  }

  function bars(task) {
    const { names, track, layer, what, kind, begin, end, share } = data.bars[task];
    return begin.map((from, i) => ({
      track: names[track[i]], layer: names[layer[i]], what: names[what[i]], kind: names[kind[i]],
      begin: from, end: end[i], share: share[i],
    }));
  }

  async function draw(element) {
    const { task, chart } = element.dataset;
    const spec = paint(data.charts[task][chart]);
    const time = chart === "timeline";
    if (time) {
      spec.datasets = { bars: bars(task) };
      spec.params[0].value = spans[task][0];
      spec.params[1].value = spans[task][1];
    }
    drawn.get(element)?.finalize();
    const made = await vegaEmbed(element, spec, {
      mode: "vega-lite",
      actions: false,
      ast: true, // no evaluation of strings: the page forbids it
      renderer: time ? "canvas" : "svg",
      config: config(element.clientWidth, spec.usermeta?.label ?? 100),
      tooltip: { theme: root.dataset.theme },
    });
    drawn.set(element, made);
    element.dataset.drawn = `${root.dataset.theme} ${element.clientWidth}`;
    if (time) show(task);
  }

  let queue = Promise.resolve();
  // One after the other, so that the first one is there soon.
  function redraw() {
    const wanted = all(".chart").filter((element) => element.offsetParent !== null);
    queue = queue.then(async () => {
      for (const element of wanted) {
        const state = `${root.dataset.theme} ${element.clientWidth}`;
        if (element.offsetParent !== null && element.dataset.drawn !== state) await draw(element);
      }
      root.dataset.ready = "yes";
    });
  }

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });

  // ---- timeline ----------------------------------------------------------------------------
  for (const task of Object.keys(data.bars)) spans[task] = [0, data.bars[task].cycles];
  const timeline = (task) => all('.chart[data-chart="timeline"]').find(
    (element) => element.dataset.task === task);

  function show(task) {
    const [from, to] = spans[task];
    const view = drawn.get(timeline(task))?.view;
    view?.signal("from", from).signal("to", to).runAsync();
    const zoom = all(".zoom").find((element) => element.dataset.task === task);
    const text = [from, to].map((cycle) => Math.round(cycle).toLocaleString("en"));
    zoom.querySelector("output").textContent = `cycles ${text[0]} to ${text[1]}`;
  }

  // Moves by a share of what is seen, and zooms around a place of it (0 to 1).
  function move(task, by, factor = 1, place = 0.5) {
    const cycles = data.bars[task].cycles;
    const [from, to] = spans[task];
    const length = Math.min(cycles, Math.max(32, (to - from) * factor));
    let begin = from + (to - from) * (by + place) - length * place;
    begin = Math.min(Math.max(0, begin), cycles - length);
    spans[task] = [begin, begin + length];
    show(task);
  }
  const moves = {
    left: (task) => move(task, -0.25),
    right: (task) => move(task, 0.25),
    in: (task) => move(task, 0, 0.5),
    out: (task) => move(task, 0, 2),
    all: (task) => move(task, 0, Infinity),
  };
  const keys = {
    ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", 0: "all", Home: "all",
  };

  for (const zoom of all(".zoom")) {
    const task = zoom.dataset.task;
    for (const one of all("button", zoom)) {
      one.addEventListener("click", () => moves[one.dataset.move](task));
    }
    zoom.addEventListener("keydown", (event) => turn(event, task));
  }
  function turn(event, task) {
    const name = keys[event.key];
    if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[name](task);
  }

  // Where in the plot, 0 to 1, and how wide it is.
  function inside(element, event) {
    const view = drawn.get(element)?.view;
    const box = element.querySelector("canvas")?.getBoundingClientRect();
    if (!view || !box) return null;
    const width = view.width();
    return { place: (event.clientX - box.left - view.origin()[0]) / width, width };
  }
  for (const element of all('.chart[data-chart="timeline"]')) {
    const task = element.dataset.task;
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", "Timeline: arrows move, plus and minus zoom, 0 shows all");
    element.addEventListener("keydown", (event) => turn(event, task));
    element.addEventListener("wheel", (event) => {
      const at = inside(element, event);
      if (!at || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      move(task, 0, 2 ** (event.deltaY / 200), Math.min(1, Math.max(0, at.place)));
    }, { passive: false });
    let last = null;
    element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) last = event.clientX;
    });
    element.addEventListener("pointermove", (event) => {
      const at = last === null ? null : inside(element, event);
      if (!at || !event.buttons) return;
      if (Math.abs(event.clientX - last) > 3) element.setPointerCapture(event.pointerId);
      move(task, (last - event.clientX) / at.width);
      last = event.clientX;
    });
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, () => { last = null; });
    }
  }

  // ---- tasks -------------------------------------------------------------------------------
  const tabs = all('[role="tab"]');
  function select(tab) {
    for (const one of tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    redraw();
  }
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(number + step + tabs.length) % tabs.length];
      next.focus();
      select(next);
    });
  });
  // Parts have the same names in every task: a link goes to the one that is shown.
  for (const link of all("[data-part]")) {
    link.addEventListener("click", (event) => {
      const part = all(".part").find(
        (one) => one.dataset.name === link.dataset.part && one.offsetParent !== null);
      if (!part) return;
      event.preventDefault();
      part.scrollIntoView();
      part.focus({ preventScroll: true });
    });
  }

  if (tabs.length) select(tabs[0]);
  showTheme();
})();
