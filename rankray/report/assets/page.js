"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const style = () => getComputedStyle(document.documentElement);
  const value = (name) => style().getPropertyValue(name).trim();

  function themed(layout) {
    const narrow = window.innerWidth < 640;
    const axis = (given) => ({
      automargin: true, gridcolor: value("--grid"), zerolinecolor: value("--line"), linecolor: value("--line"), ...given,
    });
    const font = { color: value("--text"), size: narrow ? 11 : 13, family: "system-ui, sans-serif" };
    const result = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font,
      hoverlabel: { bgcolor: value("--card"), bordercolor: value("--line"), font: { color: value("--text") } },
      legend: { orientation: "h", y: -0.22, yanchor: "top" }, hovermode: "closest", dragmode: narrow ? false : "zoom",
      ...layout, margin: { t: 16, r: 12, l: 56, b: 48, ...(layout.margin || {}) },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
    for (const shape of result.shapes || []) shape.line = { ...shape.line, color: value("--dim") };
    for (const note of result.annotations || []) note.font = { color: value("--text"), size: narrow ? 11 : 12 };
    return result;
  }

  function traces(chart) {
    if (!chart.traces.some((trace) => trace.type === "parcoords")) return chart.traces;
    const font = { color: value("--text") };
    return chart.traces.map((trace) => ({
      ...trace, labelfont: font, tickfont: font, rangefont: { color: "rgba(0,0,0,0)" },
      unselected: { line: { color: value("--line"), opacity: 0.3 } },
    }));
  }

  const LABEL = 36;
  function moveApart(place) {
    const given = place.layout.annotations || [];
    if (given.length < 2) return;
    const axis = place._fullLayout.yaxis;
    const notes = given.map((note, index) => {
      const at = axis.d2p(note.y);
      return { key: `annotations[${index}].yshift`, shift: note.yshift || 0, at, to: at };
    });
    notes.sort((a, b) => a.at - b.at);
    for (let i = 1; i < notes.length; i += 1) notes[i].to = Math.max(notes[i].to, notes[i - 1].to + LABEL);
    for (let i = notes.length - 1, most = axis._length; i >= 0; i -= 1) {
      notes[i].to = Math.min(notes[i].to, most);
      most = notes[i].to - LABEL;
    }
    const moved = notes.filter((note) => Math.round(note.at - note.to) !== note.shift);
    if (moved.length) {
      Plotly.relayout(place, Object.fromEntries(moved.map((note) => [note.key, Math.round(note.at - note.to)])));
    }
  }

  const drawn = Promise.all(charts.map((chart) => {
    const place = document.getElementById("chart-" + chart.key);
    const options = { responsive: true, displaylogo: false, displayModeBar: false };
    return Plotly.newPlot(place, traces(chart), themed(structuredClone(chart.layout)), options).then(() => {
      place.dataset.drawn = "yes";
      place.on("plotly_afterplot", () => moveApart(place));
      moveApart(place);
    }, (error) => {
      place.textContent = "This chart could not be drawn: " + error.message;
    });
  }));
  drawn.then(() => { document.documentElement.dataset.drawn = "yes"; });

  const redraw = () => charts.forEach((chart) =>
    Plotly.react("chart-" + chart.key, traces(chart), themed(structuredClone(chart.layout)),
      { responsive: true, displaylogo: false, displayModeBar: false }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const PAPER = 640;
  const resize = (width) => {
    for (const chart of charts) {
      const place = document.getElementById("chart-" + chart.key);
      if (place.dataset.drawn) Plotly.relayout(place, width ? { width } : { width: null, autosize: true });
    }
  };
  addEventListener("beforeprint", () => resize(PAPER));
  addEventListener("afterprint", () => resize(null));

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      let done = "Copied";
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        getSelection().selectAllChildren(source);
        done = "Selected: copy it now";
      }
      button.textContent = done;
      setTimeout(() => { button.textContent = "Copy"; }, 2500);
    });
  }
})();
