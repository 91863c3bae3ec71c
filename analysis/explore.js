// The interactive part of a report: pick copyups, and every picture follows.
// Data: columns of equal length, words as indices into lists (analysis/explore.py).
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("explore-data").textContent);
  const total = data.dur.length;
  const at = (name) => document.getElementById("explore-" + name);
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim() || "#1b1f24";
  const grid = style.getPropertyValue("--grid").trim() || "#d9dee4";
  // Okabe and Ito's palette, as in the other pictures.
  const colours = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#9aa4ae"];
  const fixed = { copy: 0, metacopy: 1, reflink: 2, none: 3 };
  const shades = ["#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5"];
  const colour = (name, number) => colours[at("by").value === "how" && name in fixed ? fixed[name] : number];
  const keys = ["run", "process", "op", "how"];

  const time = (ns) => {
    for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]])
      if (ns >= size) return (ns / size).toPrecision(3) + " " + unit;
    return ns + " ns";
  };
  const bytes = (count) => {
    let power = 0;
    while (count >= 1024 && power < 4) { count /= 1024; power += 1; }
    return (power ? count.toFixed(1) : count) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][power];
  };

  for (const key of keys)
    data.words[key].forEach((word, code) => at(key).add(new Option(word, code)));

  function chosen() {
    const wanted = keys.map((key) => [data[key], at(key).value]).filter((one) => one[1] !== "");
    const part = at("path").value;
    const least = (parseFloat(at("least").value) || 0) * 1e3;
    const found = [];
    for (let i = 0; i < total; i += 1)
      if (data.dur[i] >= least && (!part || data.path[i].includes(part))
          && wanted.every(([codes, value]) => codes[i] === +value)) found.push(i);
    return found;
  }

  function groups(found) {
    const key = at("by").value, made = new Map();
    for (const i of found) {
      const code = data[key][i];
      if (!made.has(code)) made.set(code, []);
      made.get(code).push(i);
    }
    const ordered = [...made].sort((a, b) => b[1].length - a[1].length);
    const most = ordered.slice(0, 6).map(([code, mine]) => [data.words[key][code], mine]);
    const rest = ordered.slice(6).flatMap((one) => one[1]);
    return rest.length ? [...most, ["others", rest]] : most;
  }

  const axis = (title, more) => ({ title: { text: title }, gridcolor: grid, zeroline: false, ...more });
  const decades = (low, high, text) => {
    const ticks = [];
    for (let value = low; value <= high; value *= 10) ticks.push(value);
    return { type: "log", tickvals: ticks, ticktext: ticks.map(text) };
  };
  const times = decades(1e3, 1e11, time);
  const sizes = { type: "log", tickvals: [], ticktext: [] };
  for (let power = 0; power <= 40; power += 4) {
    sizes.tickvals.push(2 ** power);
    sizes.ticktext.push(bytes(2 ** power).replace(".0", ""));
  }
  const layout = (title, more) => ({
    title: { text: title, x: 0, font: { size: 14 } }, font: { color: ink, size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 380,
    margin: { l: 70, r: 10, t: 40, b: 50 }, legend: { orientation: "h", y: 1.08, x: 1, xanchor: "right" },
    ...more,
  });
  const config = { displayModeBar: false, responsive: true };  // drag zooms, double click resets
  const show = (name, traces, made) => Plotly.react(at(name), traces, made, config);

  function cloud(parts) {
    const traces = parts.map(([name, mine], number) => ({
      type: "scatter", mode: "markers", name,
      marker: { size: 5, opacity: 0.55, color: colour(name, number) },
      x: mine.map((i) => Math.max(data.size[i], 1)), y: mine.map((i) => data.dur[i]),
      text: mine.map((i) => `${data.path[i]}<br>${bytes(data.size[i])}, ${time(data.dur[i])}<br>`
        + `${data.words.process[data.process[i]]}, ${data.words.op[data.op[i]]}`),
      hoverinfo: "text",
    }));
    show("cloud", traces, layout("Time by file size",
      { xaxis: axis("file size", sizes), yaxis: axis("time of one copyup", times) }));
  }

  function shares(parts) {
    const traces = parts.map(([name, mine], number) => {
      const sorted = mine.map((i) => data.dur[i]).sort((a, b) => a - b);
      const step = Math.max(1, Math.floor(sorted.length / 500));
      const kept = sorted.map((_, k) => k).filter((k) => k % step === 0 || k === sorted.length - 1);
      return { type: "scatter", mode: "lines", name, line: { shape: "hv", color: colour(name, number) },
        x: kept.map((k) => sorted[k]), y: kept.map((k) => (k + 1) / sorted.length) };
    });
    show("shares", traces, layout("Distribution", { xaxis: axis("time of one copyup", times),
      yaxis: axis("share that took no longer", { tickformat: ".0%", range: [0, 1.02] }) }));
  }

  function heat(found) {
    show("heat", [{
      type: "histogram2d", nbinsx: 80, nbinsy: 40,
      x: found.map((i) => data.at[i] / 1e9), y: found.map((i) => Math.log10(data.dur[i])),
      colorscale: [[0, "rgba(0,0,0,0)"], [1e-9, "#ffe945"], [0.5, "#7c7b78"], [1, "#00224e"]],
      zmin: 0, colorbar: { title: { text: "copyups" } },
    }], layout("Over time", { xaxis: axis("since the first copyup, s"),
      yaxis: axis("time of one copyup", { tickvals: [3, 4, 5, 6, 7, 8, 9, 10],
        ticktext: [3, 4, 5, 6, 7, 8, 9, 10].map((power) => time(10 ** power)) }) }));
  }

  function tree(found) {
    const size = new Map();
    for (const i of found) {
      const names = data.path[i].split("/").slice(1, -1).slice(0, 5);
      for (let level = 0; level <= names.length; level += 1) {
        const place = "/" + names.slice(0, level).join("/");
        size.set(place, (size.get(place) || 0) + data.bytes[i]);
      }
    }
    const places = [...size.keys()].filter((place) => size.get(place) > 0);
    const above = (place) => place === "/" ? "" : place.slice(0, place.lastIndexOf("/")) || "/";
    show("tree", [{
      type: "icicle", branchvalues: "total", tiling: { orientation: "v" }, sort: true,
      ids: places, labels: places.map((place) => place.slice(place.lastIndexOf("/") + 1) || "/"),
      parents: places.map(above), values: places.map((place) => size.get(place)),
      text: places.map((place) => bytes(size.get(place))), textinfo: "label+text",
      hovertext: places.map((place) => `${place}<br>${bytes(size.get(place))}`), hoverinfo: "text",
      marker: { colors: places.map((place) => shades[place === "/" ? 0 : place.split("/").length - 1]) },
    }], layout("Data copied, by directory", { margin: { l: 10, r: 10, t: 40, b: 10 } }));
  }

  function update() {
    const found = chosen(), parts = groups(found);
    let spent = 0, moved = 0;
    for (const i of found) { spent += data.dur[i]; moved += data.bytes[i]; }
    at("count").textContent =
      `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} copyups, `
      + `${time(spent)}, ${bytes(moved)} copied`;
    cloud(parts);
    shares(parts);
    heat(found);
    tree(found);
  }

  for (const name of [...keys, "by", "path", "least"]) at(name).addEventListener("input", update);
  at("form").addEventListener("reset", () => setTimeout(update));
  update();
})();
