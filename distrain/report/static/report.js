"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const told = document.getElementById("told");
  const figures = new Map(data.figures.map((figure) => [figure.key, figure]));
  const places = { step: "step", examples: "examples seen", hours: "hours since the beginning" };
  let place = "step";
  let printing = false;

  // ---- colours: a figure names them, the style sheet has a light and a dark of each

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const coloured = (value) => {
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item)]));
  };
  // Plotly takes some tags in texts for markup; names from a run are no markup.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  const traces = (figure) =>
    figure.traces.map((trace) =>
      trace.type === "heatmap"
        ? { ...trace, y: trace.y.map(plain) }
        : {
            ...trace,
            name: plain(trace.name),
            x: trace.places[place],
            places: undefined,
            hovertemplate: "%{y:.5g}<extra>" + plain(trace.name) + "</extra>",
          },
    );

  const lines = (figure) => {
    if (figure.traces[0].type === "heatmap") return [];
    return data.marks.map((mark) => ({
      type: "line",
      xref: "x",
      yref: "paper",
      x0: mark[place],
      x1: mark[place],
      y0: 0,
      y1: 1,
      layer: "below",
      line: mark.kind === "epoch" ? { color: "--epoch", width: 1, dash: "dot" } : { color: mark.colour, width: 1.5, dash: "dash" },
    }));
  };

  const layout = (figure) => {
    const axis = { gridcolor: "--line", zerolinecolor: "--line", linecolor: "--line", automargin: true };
    const own = figure.layout;
    const found = {
      autosize: true,
      height: 340,
      margin: { l: 60, r: 15, t: 10, b: 45 },
      paper_bgcolor: "--page",
      plot_bgcolor: "--page",
      font: { color: "--text", family: "system-ui, sans-serif", size: 12 },
      hovermode: "closest",
      dragmode: "zoom",
      showlegend: figure.traces[0].type !== "heatmap",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: "--panel", font: { color: "--text" }, bordercolor: "--line" },
      uirevision: place,
      ...own,
      shapes: lines(figure),
    };
    const horizontal = figure.traces[0].type === "heatmap" ? "step" : places[place];
    found.xaxis = { ...axis, title: { text: horizontal }, ...own.xaxis };
    for (const name of Object.keys(found).concat("yaxis")) {
      if (/^yaxis\d*$/.test(name)) found[name] = { ...axis, exponentformat: "power", ...own[name] };
    }
    return coloured(found);
  };

  const options = { displayModeBar: false, responsive: true, displaylogo: false, showTips: false };
  const draw = (plot) => {
    const figure = figures.get(plot.dataset.key);
    return Plotly.react(plot, coloured(traces(figure)), layout(figure), options);
  };
  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => plots.forEach(draw);

  // ---- light, dark, paper

  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const paint = () => {
    const theme = printing ? "light" : chosen || (dark.matches ? "dark" : "light");
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    drawAll();
  };
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    paint();
  });
  dark.addEventListener("change", paint);
  let closed = [];
  addEventListener("beforeprint", () => {
    printing = true;
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => (details.open = true));
    paint();
    plots.forEach((plot) => {
      Plotly.Fx.unhover(plot);
      Plotly.relayout(plot, { width: 680 });
    });
  });
  addEventListener("afterprint", () => {
    printing = false;
    closed.forEach((details) => (details.open = false));
    plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
    paint();
  });

  // ---- the keyboard: from point to point, zoom, move, all

  const cursor = new WeakMap();
  const range = (plot) => plot._fullLayout.xaxis.range.slice();
  const zoom = (plot, factor) => {
    const [low, high] = range(plot);
    const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
    Plotly.relayout(plot, { "xaxis.range": [middle - half, middle + half] });
  };
  const move = (plot, share) => {
    const [low, high] = range(plot);
    const by = (high - low) * share;
    Plotly.relayout(plot, { "xaxis.range": [low + by, high + by] });
  };
  const all = (plot) => Plotly.relayout(plot, { "xaxis.autorange": true });
  const go = (plot, by) => {
    const curves = plot.data.map((trace, number) => [trace, number]).filter(([trace]) => trace.type !== "heatmap");
    if (!curves.length) return;
    const [longest] = curves.reduce((one, other) => (other[0].x.length > one[0].x.length ? other : one));
    const [low, high] = range(plot);
    const seen = longest.x.filter((x) => x >= low && x <= high);
    if (!seen.length) return;
    const last = seen.length - 1;
    const stride = Math.max(1, Math.round(seen.length / 60)) * by;
    const at = cursor.has(plot) ? Math.min(last, Math.max(0, cursor.get(plot) + stride)) : by > 0 ? 0 : last;
    cursor.set(plot, at);
    const x = seen[at];
    const points = curves
      .map(([trace, number]) => {
        let best = -1;
        trace.x.forEach((value, index) => {
          if (best < 0 || Math.abs(value - x) < Math.abs(trace.x[best] - x)) best = index;
        });
        return { curveNumber: number, pointNumber: best, trace };
      })
      .filter((point) => point.pointNumber >= 0);
    Plotly.Fx.hover(plot, points.map(({ curveNumber, pointNumber }) => ({ curveNumber, pointNumber })));
    const values = points.map(({ trace, pointNumber }) => `${trace.name} ${Number(trace.y[pointNumber]).toPrecision(4)}`);
    told.textContent = `${places[place]} ${x}: ${values.join(", ")}`;
  };
  const actions = {
    in: (plot) => zoom(plot, 0.5),
    out: (plot) => zoom(plot, 2),
    all,
    save: (plot) => Plotly.downloadImage(plot, { format: "svg", filename: plot.dataset.key, width: 1000, height: 500 }),
  };
  const keys = { "+": "in", "=": "in", "-": "out", "0": "all" };
  for (const plot of plots) {
    plot.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && event.shiftKey) move(plot, by / 4);
      else if (by) go(plot, by);
      else if (keys[event.key]) actions[keys[event.key]](plot);
      else if (event.key === "Escape") Plotly.Fx.unhover(plot);
      else return;
      event.preventDefault();
    });
    for (const one of plot.parentElement.querySelectorAll("button[data-do]")) {
      one.addEventListener("click", () => actions[one.dataset.do](plot));
    }
  }
  for (const choice of document.querySelectorAll("#places input")) {
    choice.addEventListener("change", () => {
      place = choice.value;
      drawAll();
    });
  }

  // ---- predictions over epochs

  for (const figure of document.querySelectorAll(".pictures")) {
    const slider = figure.querySelector("input"), picture = figure.querySelector("img");
    const epochs = JSON.parse(figure.dataset.epochs), pictures = data.pictures[figure.dataset.run];
    slider.addEventListener("input", () => {
      const number = Number(slider.value);
      picture.src = pictures[number];
      picture.alt = picture.alt.replace(/\d+$/, String(epochs[number]));
      slider.setAttribute("aria-valuetext", `epoch ${epochs[number]}`);
      figure.querySelector("output").textContent = String(epochs[number]);
    });
  }

  paint();
  root.dataset.ready = String(plots.length);
})();
