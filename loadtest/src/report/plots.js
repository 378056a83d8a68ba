"use strict";
// Draws the plots of a run. Every size follows the width of the page, so that text stays readable on a small one.
(() => {
  const { latency, course } = JSON.parse(document.getElementById("drawn").textContent) ?? {};
  const SVG = "http://www.w3.org/2000/svg";
  const colour = (at) => `var(--c${at % 6})`;
  const height = 240;
  const margin = { left: 56, right: 12, top: 8, bottom: 30 };

  const element = (parent, name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };

  const time = (us) => {
    const [value, unit] = us >= 1e6 ? [us / 1e6, "s"] : us >= 1e3 ? [us / 1e3, "ms"] : [us, "us"];
    return `${Number(value.toPrecision(3))} ${unit}`;
  };
  const count = (value) =>
    value >= 1e6 ? `${Number((value / 1e6).toPrecision(3))}M`
    : value >= 1e4 ? `${Number((value / 1e3).toPrecision(3))}k`
    : `${Number(value.toPrecision(3))}`;
  const mebibytes = (value) => `${count(value)} MiB`;

  // Round steps from zero, so that there are about four.
  const linear = (most, exact) => {
    const rough = (most || 1) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough);
    const end = exact || Math.ceil((most || 1) / step - 1e-9) * step;
    const ticks = Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, at) => at * step);
    return { at: (value) => value / end, ticks };
  };
  const logarithmic = (least, most) => {
    const [first, last] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most * 1.0001))];
    const span = Math.max(1, last - first);
    const ticks = Array.from({ length: span + 1 }, (_, at) => 10 ** (first + at));
    return { at: (value) => (Math.log10(value) - first) / span, ticks };
  };

  // The axes of a plot; gives back how places are found on it.
  const frame = (box, across, up) => {
    const width = Math.max(240, box.clientWidth);
    const svg = element(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
    const inner = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
    const x = (value) => margin.left + across.at(value) * inner.width;
    const y = (value) => margin.top + (1 - up.at(value)) * inner.height;
    for (const tick of up.ticks) {
      element(svg, "line", { x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick), stroke: "var(--line)" });
      element(svg, "text", { x: margin.left - 6, y: y(tick) + 4, "text-anchor": "end" }, up.name(tick));
    }
    // Fewer labels where there is no room for all.
    const every = Math.ceil(across.ticks.length / Math.max(2, Math.floor(inner.width / 56)));
    across.ticks.forEach((tick, at) => {
      element(svg, "line", { x1: x(tick), x2: x(tick), y1: margin.top, y2: margin.top + inner.height, stroke: "var(--line)", "stroke-dasharray": "2 4" });
      if (at % every === 0) {
        const place = across.at(tick);
        const anchor = place < 0.03 ? "start" : place > 0.95 ? "end" : "middle";
        element(svg, "text", { x: x(tick), y: height - 10, "text-anchor": anchor }, across.name(tick));
      }
    });
    return { svg, x, y, floor: margin.top + inner.height };
  };

  const legend = (box, names) => {
    if (names.length < 2) return;
    const list = document.createElement("div");
    list.className = "legend";
    names.forEach((name, at) => {
      const entry = document.createElement("span");
      const mark = document.createElement("i");
      mark.style.background = colour(at);
      entry.append(mark, name);
      list.append(entry);
    });
    box.append(list);
  };

  const line = (svg, points, at) => {
    const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    element(svg, "polyline", { points: path, fill: "none", stroke: colour(at), "stroke-width": 1.8, "stroke-linejoin": "round" });
  };

  const measured = () => Object.entries(latency ?? {}).filter(([, one]) => one.count > 0);

  const percentiles = (box) => {
    const all = measured();
    // Nines: 90, 99, 99.9 are as far from each other.
    const nines = (percentile) => -Math.log10(1 - percentile / 100);
    const rows = all.map(([name, one]) => [name, one.percentiles.filter(([at]) => at < 100)]);
    const deepest = Math.max(...rows.flatMap(([, points]) => points.map(([at]) => nines(at))), 1);
    const known = [50, 90, 99, 99.9, 99.99, 99.999].filter((at) => nines(at) <= deepest + 0.001);
    const values = rows.flatMap(([, points]) => points.map(([, us]) => us));
    const up = { ...logarithmic(Math.min(...values), Math.max(...values)), name: time };
    const across = { at: (at) => nines(at) / deepest, ticks: known, name: (at) => `${at} %` };
    const { svg, x, y } = frame(box, across, up);
    rows.forEach(([, points], at) => {
      line(svg, points.map(([percentile, us]) => [x(percentile), y(us)]), at);
      for (const [percentile, us] of points) {
        const dot = element(svg, "circle", { cx: x(percentile), cy: y(us), r: 3, fill: colour(at) });
        element(dot, "title", {}, `${percentile} %: ${time(us)}`);
      }
    });
    legend(box, rows.map(([name]) => name));
  };

  const bars = (box) => {
    const all = measured();
    const step = 10 ** (1 / 12);
    const ends = all.flatMap(([, one]) => one.bars.map(([us]) => us));
    const across = { ...logarithmic(Math.min(...ends) / step, Math.max(...ends)), name: time };
    const share = (one, held) => (held / one.count) * 100;
    const most = Math.max(...all.flatMap(([, one]) => one.bars.map(([, held]) => share(one, held))));
    const { svg, x, y, floor } = frame(box, across, { ...linear(most), name: (value) => `${count(value)} %` });
    all.forEach(([, one], at) => {
      for (const [us, held] of one.bars) {
        const [left, right, top] = [x(us / step), x(us), y(share(one, held))];
        const bar = element(svg, "rect", {
          x: left + 0.5, y: top, width: Math.max(1, right - left - 1), height: Math.max(0, floor - top),
          fill: colour(at), "fill-opacity": all.length > 1 ? 0.55 : 0.85,
        });
        element(bar, "title", {}, `up to ${time(us)}: ${count(held)}`);
      }
    });
    legend(box, all.map(([name]) => name));
  };

  const overTime = (box, lines, name) => {
    const { seconds, spans } = course;
    const most = Math.max(...lines.flatMap(([, values]) => values), 0);
    const across = { ...linear(seconds.at(-1), seconds.at(-1)), name: (value) => `${count(value)} s` };
    const { svg, x, y, floor } = frame(box, across, { ...linear(most), name });
    (spans ?? []).forEach(({ name, from, to }, at) => {
      const [left, right] = [x(Math.min(from, seconds.at(-1))), x(Math.min(to, seconds.at(-1)))];
      const area = element(svg, "rect", {
        x: left, y: margin.top, width: Math.max(1, right - left), height: floor - margin.top,
        fill: at % 2 ? "var(--shade)" : "var(--shade-other)",
      });
      element(area, "title", {}, name);
      // Named where the name has room.
      if (right - left > name.length * 6 + 8) {
        element(svg, "text", { x: (left + right) / 2, y: margin.top + 12, "text-anchor": "middle" }, name);
      }
    });
    lines.forEach(([, values], at) => line(svg, values.map((value, look) => [x(seconds[look]), y(value)]), at));
    legend(box, lines.map(([name]) => name));
  };

  const of = (isTool, values) =>
    course.processes.filter((process) => process.is_tool === isTool).map((process) => [process.name, values(process)]);

  const plots = {
    percentiles,
    bars,
    rate: (box) => overTime(box, [["per second", course.per_second]], count),
    cpu: (box) => overTime(box, of(false, (process) => process.cores), count),
    memory: (box) => overTime(box, of(false, (process) => process.resident_bytes.map((bytes) => bytes / 1048576)), mebibytes),
    load: (box) => overTime(box, of(true, (process) => process.cores), count),
  };

  const draw = () => {
    for (const box of document.querySelectorAll("[data-plot]")) {
      box.replaceChildren();
      plots[box.dataset.plot](box);
    }
  };
  draw();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      draw();
    }
  });
})();
