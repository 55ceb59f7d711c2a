"use strict";
// Draws the panels of the page from the data in it; uPlot does the drawing.
(() => {
  const began = performance.now();
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const several = data.runs.length > 1;
  const hidden = new Set(); // numbers of runs that are switched off
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
  const HEIGHT = 216;
  let smoothing = 0;
  let logarithmic = false;
  let printing = false;
  let charts = [];

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Colour tells runs apart; in one run encoders, else what is measured. The dash tells the rest.
  function styles(lines) {
    const encoders = [...new Set(lines.map((line) => line.encoder))];
    const labels = [...new Set(lines.map((line) => line.label))];
    return lines.map((line) => {
      const label = labels.indexOf(line.label), encoder = encoders.indexOf(line.encoder);
      if (several) return { colour: line.run % 8, dash: DASHES[label % 4] };
      if (encoders.length > 1) return { colour: encoder % 8, dash: DASHES[label % 4] };
      return { colour: label % 8, dash: [] };
    });
  }

  function nameOf(line, lines) {
    const parts = [];
    if (several) parts.push(data.runs[line.run]);
    if (new Set(lines.map((one) => one.encoder)).size > 1) parts.push(line.encoder);
    if (new Set(lines.map((one) => one.label)).size > 1) parts.push(line.label);
    return parts.join(" · ") || line.label;
  }

  function figure(value) {
    if (value == null || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
  }

  function tick(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
    if (size !== 0 && size < 1e-3) return value.toExponential(0).replace("e-", "e−");
    return `${+value.toPrecision(4)}`;
  }

  // Exponential mean, corrected for its start at zero, as TensorBoard's.
  function smoothed(values) {
    let sum = 0, weight = 0;
    return values.map((value) => {
      sum = smoothing * sum + (1 - smoothing) * value;
      weight = smoothing * weight + 1 - smoothing;
      return sum / weight;
    });
  }

  // For each line: the smoothed one, the line as it was logged, its least and its largest values.
  function aligned(lines) {
    return uPlot.join(lines.map((line) => [line.x, smoothed(line.y), line.y, line.lo || line.y, line.hi || line.y]));
  }

  function marks(panel, lines) {
    return (u) => {
      const { ctx, bbox } = u;
      ctx.save();
      ctx.lineWidth = devicePixelRatio;
      lines.forEach((line) => {
        if (hidden.has(line.run)) return;
        ctx.fillStyle = colour("--bad");
        for (const step of line.bad) {
          const x = u.valToPos(step, "x", true), size = 5 * devicePixelRatio;
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          ctx.beginPath();
          ctx.moveTo(x - size, bbox.top); ctx.lineTo(x + size, bbox.top); ctx.lineTo(x, bbox.top + 1.6 * size);
          ctx.fill();
        }
      });
      if (panel.x === "optimizer step") {
        ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
        data.resumed.forEach((steps, run) => {
          if (hidden.has(run)) return;
          ctx.strokeStyle = colour(several ? `--c${run % 8}` : "--soft");
          for (const step of steps) {
            const x = u.valToPos(step, "x", true);
            if (x < bbox.left || x > bbox.left + bbox.width) continue;
            ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
          }
        });
      }
      ctx.restore();
    };
  }

  function options(panel, lines, width, legend) {
    const looks = styles(lines);
    const series = [{}], bands = [];
    lines.forEach((line, number) => {
      const stroke = () => colour(`--c${looks[number].colour}`);
      const pale = () => `${colour(`--c${looks[number].colour}`)}4d`;
      const few = line.x.length <= 40;
      const at = 1 + 4 * number, show = !hidden.has(line.run);
      const common = { spanGaps: true, show };
      series.push({ ...common, label: nameOf(line, lines), stroke, width: 1.6, dash: looks[number].dash,
        points: { show: few, size: line.x.length === 1 ? 8 : 4, fill: stroke } });
      series.push({ ...common, show: show && smoothing > 0, stroke: pale, width: 1, points: { show: false } });
      series.push({ ...common, show: show && !!line.lo, width: 0, points: { show: false } });
      series.push({ ...common, show: show && !!line.lo, width: 0, points: { show: false } });
      if (line.lo) bands.push({ series: [at + 3, at + 2], fill: () => `${colour(`--c${looks[number].colour}`)}33` });
    });
    const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--grid"), width: 1 },
      ticks: { stroke: () => colour("--line"), size: 4, width: 1 }, font: "11px system-ui, sans-serif" };
    const log = panel.log || logarithmic;
    const filter = (u, splits) => {
      const decades = Math.log10(splits[splits.length - 1] / splits[0]);
      const kept = decades > 3 ? [1] : [1, 2, 5];
      return splits.map((value) => kept.includes(+value.toExponential().split("e")[0]) ? value : null);
    };
    const powers = { filter, grid: { ...axis.grid, filter }, ticks: { ...axis.ticks, filter } };
    return {
      width, height: HEIGHT, series, bands, legend: { show: false },
      cursor: { sync: { key: panel.x }, drag: { x: true, y: false, setScale: true }, points: { size: 6 },
        bind: { dblclick: () => () => { showWhole(panel.x); return null; } } },
      scales: {
        x: { time: false, range: (u, least, largest) => least === largest ? [least - 1, largest + 1] : [least, largest] },
        y: log ? { distr: 3 } : { range: (u, least, largest) => range(panel, least, largest) },
      },
      axes: [
        { ...axis, size: 24, gap: 4, label: panel.x, labelSize: 16, labelFont: "11px system-ui, sans-serif",
          labelGap: 0, space: 60, values: (u, ticks) => ticks.map((value) => Number.isInteger(value) ? tick(value) : "") },
        { ...axis, ...(log ? powers : {}), size: 58, gap: 4, values: (u, ticks) => ticks.map((value) => value == null ? "" : tick(value)) },
      ],
      hooks: {
        draw: [marks(panel, lines)],
        setCursor: [(u) => showValues(u, lines, legend)],
      },
    };
  }

  function range(panel, least, largest) {
    if (least == null || (panel.zero && largest === 0)) return [0, 1];
    const room = (largest - least || Math.abs(largest) || 1) * 0.06;
    return [panel.zero && least >= 0 ? 0 : least - room, largest + room];
  }

  // From the first to the last step of any panel, so that what stands below one another happened at one time.
  function whole(panel) {
    let least = Infinity, largest = -Infinity;
    for (const other of data.panels) {
      if (other.x !== panel.x) continue;
      for (const { x } of other.lines) {
        if (!x.length) continue;
        least = Math.min(least, x[0]);
        largest = Math.max(largest, x[x.length - 1]);
      }
    }
    return { min: least, max: largest };
  }

  // uPlot zooms all plots of a key together; back to the whole run is for us to do.
  function showWhole(x) {
    for (const chart of charts) if (chart.u && (!x || chart.panel.x === x)) chart.u.setScale("x", whole(chart.panel));
  }

  function makeLegend(box, panel, lines) {
    const looks = styles(lines);
    box.replaceChildren();
    return lines.map((line, number) => {
      const item = document.createElement("span"), value = document.createElement("b");
      const { colour: index, dash } = looks[number];
      item.innerHTML = `<svg viewBox="0 0 20 8"><line x1="0" x2="20" y1="4" y2="4" stroke="var(--c${index})" ` +
        `stroke-width="2.4" stroke-dasharray="${dash.join(" ")}"/></svg>`;
      const name = document.createElement("span");
      name.textContent = nameOf(line, lines);
      item.append(name, value);
      box.append(item);
      return { item, value };
    });
  }

  // What stands under the cursor; without one the last value.
  function showValues(u, lines, legend) {
    const index = u.cursor.idx;
    lines.forEach((line, number) => {
      legend[number].item.hidden = hidden.has(line.run);
      legend[number].item.style.display = hidden.has(line.run) ? "none" : "";
      let value = line.y[line.y.length - 1];
      if (index != null && u.cursor.left >= 0) {
        const step = u.data[0][index];
        let at = -1;
        for (let k = 0; k < line.x.length && line.x[k] <= step; k++) at = k;
        value = at < 0 ? null : line.y[at];
      }
      legend[number].value.textContent = figure(value);
    });
  }

  function draw(chart) {
    const { panel, frame } = chart;
    const zoom = chart.u ? { min: chart.u.scales.x.min, max: chart.u.scales.x.max } : whole(panel);
    if (chart.u) chart.u.destroy();
    const box = frame.querySelector(".plot");
    const lines = panel.lines.filter((line) => line.x.length);
    const legendBox = frame.querySelector(".legend");
    const legend = makeLegend(legendBox, panel, lines);
    const width = printing ? 330 : box.clientWidth;
    if (lines.length) {
      chart.u = new uPlot(options(panel, lines, width, legend), aligned(lines), box);
      showValues(chart.u, lines, legend);
      chart.u.setScale("x", zoom);
    }
    const bad = panel.lines.reduce((sum, line) => sum + line.bad.length, 0);
    if (bad) {
      const told = document.createElement("span");
      told.className = "marks bad";
      told.textContent = `▼ no finite number was logged here (${bad}${bad >= 200 ? " or more" : ""})`;
      legendBox.append(told);
    }
  }

  function drawAll() {
    for (const chart of charts) draw(chart);
  }

  root.classList.add("scripted");
  charts = [...document.querySelectorAll("[data-panel]")].map((frame) =>
    ({ frame, panel: data.panels[+frame.dataset.panel], u: null }));
  drawAll();

  const resized = new ResizeObserver((entries) => {
    if (printing) return;
    for (const entry of entries) {
      const chart = charts.find((one) => one.frame === entry.target.parentElement);
      const width = Math.floor(entry.contentRect.width);
      if (chart.u && width > 0 && chart.u.width !== width) chart.u.setSize({ width, height: HEIGHT });
    }
  });
  for (const chart of charts) resized.observe(chart.frame.querySelector(".plot"));

  const slider = document.getElementById("smoothing");
  slider.addEventListener("input", () => {
    smoothing = +slider.value;
    slider.nextElementSibling.textContent = smoothing.toFixed(2).replace(/\.?0+$/, "");
    drawAll();
  });
  document.getElementById("log").addEventListener("change", (event) => {
    logarithmic = event.target.checked;
    drawAll();
  });
  document.getElementById("whole").addEventListener("click", () => showWhole());
  for (const box of document.querySelectorAll("[data-run]")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(+box.dataset.run);
      else hidden.add(+box.dataset.run);
      drawAll();
    });
  }
  for (const frame of document.querySelectorAll(".media")) {
    const buttons = [...frame.querySelectorAll(".steps button")], views = [...frame.querySelectorAll(".view")];
    buttons.forEach((button, number) => button.addEventListener("click", () => {
      buttons.forEach((one, other) => one.setAttribute("aria-pressed", other === number));
      views.forEach((view, other) => { view.hidden = other !== number; });
    }));
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  function setPrinting(value) {
    printing = value;
    if (value) root.dataset.theme = "light";
    else delete root.dataset.theme;
    drawAll();
  }
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
  requestAnimationFrame(() => { root.dataset.drawn = Math.round(performance.now() - began); });
})();
