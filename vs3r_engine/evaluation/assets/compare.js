// SPDX-License-Identifier: Apache-2.0
// The compare page. One video holds the original (upper half) and the result (lower half); a canvas shows both.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const video = byId("video"), canvas = byId("picture"), stage = byId("stage"), divider = byId("divider");
  const draw2d = canvas.getContext("2d");
  const { width, height } = data.picture;
  const last = data.frame_count - 1;
  const state = { frame: 0, mode: "split", split: 0.5 };
  const charts = [];
  canvas.width = width;
  canvas.height = height;

  const bytes = Uint8Array.from(atob(byId("h264").textContent.trim()), (c) => c.charCodeAt(0));
  byId("h264").remove();
  video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));

  const dividerAt = () => ({ original: 1, result: 0 }[state.mode] ?? state.split);

  function draw() {
    const x = Math.round(dividerAt() * width);
    if (video.readyState >= 2) {
      if (x > 0) draw2d.drawImage(video, 0, 0, x, height, 0, 0, x, height);
      if (x < width) draw2d.drawImage(video, x, height, width - x, height, x, 0, width - x, height);
    }
    divider.style.left = `${100 * x / width}%`;
    divider.hidden = state.mode === "original" || state.mode === "result";
    divider.style.display = divider.hidden ? "none" : "";
    byId("tag-original").style.visibility = x > 0.12 * width ? "visible" : "hidden";
    byId("tag-result").style.visibility = x < 0.86 * width ? "visible" : "hidden";
    stage.setAttribute("aria-valuenow", String(Math.round(100 * dividerAt())));
    stage.dataset.mode = state.mode;
  }

  function showFrame(frame) {
    state.frame = Math.max(0, Math.min(last, frame));
    byId("seek").value = String(state.frame);
    byId("frame").textContent = `${data.first_frame + state.frame} / ${data.first_frame + last}`;
    for (const chart of charts) {
      chart.redraw(false, false);
      chart.setLegend({ idx: state.frame });
    }
    draw();
  }

  function seek(frame) {
    video.pause();
    showFrame(frame);
    video.currentTime = (state.frame + 0.5) / data.rate;
  }

  function tick(_now, facts) {
    showFrame(Math.floor((facts ? facts.mediaTime : video.currentTime) * data.rate + 0.01));
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(tick);
  }
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(tick);
  function animate(now) {
    if (state.mode === "wipe") state.split = 0.5 - 0.46 * Math.cos(now / 1300);
    if (state.mode === "wipe") draw();
    if (!video.requestVideoFrameCallback && !video.paused) tick();
    requestAnimationFrame(animate);
  }
  requestAnimationFrame(animate);
  video.addEventListener("seeked", draw);
  video.addEventListener("loadeddata", () => { draw(); document.body.dataset.ready = "yes"; });
  video.addEventListener("ended", () => { video.currentTime = 0; video.play(); });
  for (const name of ["play", "pause"]) video.addEventListener(name, () => { byId("play").textContent = video.paused ? "Play" : "Pause"; });

  function setMode(mode) {
    state.mode = mode;
    for (const button of document.querySelectorAll("#modes button")) {
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(button.dataset.mode === mode));
    }
    draw();
  }

  function drag(event) {
    const box = canvas.getBoundingClientRect();
    state.split = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    setMode("split");
  }
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  const toggle = () => (video.paused ? video.play() : video.pause());
  byId("play").addEventListener("click", toggle);
  byId("seek").max = String(last);
  byId("seek").addEventListener("input", (event) => seek(Number(event.target.value)));
  byId("modes").addEventListener("click", (event) => { if (event.target.dataset.mode) setMode(event.target.dataset.mode); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      " ": toggle, arrowleft: () => seek(state.frame - 1), arrowright: () => seek(state.frame + 1),
      a: () => setMode("original"), b: () => setMode("result"), s: () => setMode("split"), w: () => setMode("wipe"),
    }[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });

  const playhead = {
    hooks: {
      draw: (chart) => {
        const x = chart.valToPos(data.first_frame + state.frame, "x", true), { top, height: tall } = chart.bbox;
        chart.ctx.fillStyle = "#ffb454";
        chart.ctx.fillRect(x - devicePixelRatio / 2, top, devicePixelRatio, tall);
      },
      ready: (chart) => {
        let pressed = 0;
        chart.over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
        chart.over.addEventListener("mouseup", (event) => {
          if (Math.abs(event.clientX - pressed) > 4) return;
          const left = event.clientX - chart.over.getBoundingClientRect().left;
          seek(Math.round(chart.posToVal(left, "x")) - data.first_frame);
        });
      },
    },
  };

  function plot(title, lines, decimals) {
    const host = document.createElement("div");
    host.className = "plot";
    const heading = document.createElement("h2");
    heading.textContent = title;
    host.append(heading);
    byId("plots").append(host);
    const count = Math.max(...lines.map((line) => line.values.length));
    const axis = { stroke: "#9aa3b0", grid: { stroke: "#2b3038", width: 1 }, ticks: { stroke: "#2b3038", width: 1 }, font: "11px system-ui" };
    const chart = new uPlot({
      width: host.clientWidth - 16, height: 170, cursor: { sync: { key: "frames" }, drag: { x: true, y: false } }, scales: { x: { time: false } },
      axes: [{ ...axis, size: 30 }, { ...axis, size: 48 }], plugins: [playhead],
      series: [{ label: "frame" }, ...lines.map((line) => ({
        label: line.label, stroke: line.colour, width: line.thin ? 1 : 2, dash: line.thin ? [4, 3] : undefined, points: { show: false },
        value: (_chart, value) => (value == null ? "–" : value.toFixed(decimals)),
      }))],
    }, [Array.from({ length: count }, (_, i) => data.first_frame + i), ...lines.map((line) => line.values)], host);
    charts.push(chart);
    new ResizeObserver(() => chart.setSize({ width: host.clientWidth - 16, height: 170 })).observe(host);
  }

  const colours = ["#ff7b72", "#7ee787", "#79c0ff"];
  const both = (names) => names.flatMap((name, i) => [
    { label: name, values: data.paths.measured[name], colour: colours[i], thin: true },
    { label: `${name} smoothed`, values: data.paths.smoothed[name], colour: colours[i] },
  ]);
  if (data.paths) {
    plot("Rotation, degrees (dashed: measured)", both(["yaw", "pitch", "roll"]), 2);
    const moves = ["x", "y", "z"].some((name) => ["measured", "smoothed"].some((path) => data.paths[path][name].some((value) => Math.abs(value) > 1e-6)));
    if (moves) plot("Position, scene units (dashed: measured)", both(["x", "y", "z"]), 3);
    else note(byId("plots"), "Position: the camera was found to turn only, so x, y and z are 0 throughout.");
  }
  const shares = [["filled %", data.hole_percent, "#d2a8ff"], ["moving %", data.moving_percent, "#ffa657"]].filter((line) => line[1] && line[1].length);
  if (shares.length) plot("Filled and moving picture, %", shares.map(([label, values, colour]) => ({ label, values, colour })), 1);
  if (!charts.length) {
    byId("plots").innerHTML = '<p class="note">This result has no sidecar, so there is no camera path to plot.</p>';
  }

  const text = (value) => (value == null ? "–" : typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)).toString()
    : typeof value === "object" ? JSON.stringify(value) : String(value));
  function table(host, title, header, rows) {
    if (!rows.length) return;
    const heading = document.createElement("h2");
    heading.textContent = title;
    const element = document.createElement("table");
    const add = (parent, cells, kind) => {
      const row = parent.insertRow();
      for (const cell of cells) {
        const box = document.createElement(kind);
        box.textContent = text(cell);
        row.append(box);
      }
    };
    if (header) add(element.createTHead(), header, "th");
    const body = element.createTBody();
    for (const row of rows) add(body, row, "td");
    host.append(heading, element);
  }
  function note(host, words) {
    const line = document.createElement("p");
    line.className = "note";
    line.textContent = words;
    host.append(line);
  }

  const metrics = byId("metrics"), details = byId("details");
  table(metrics, "Metrics", ["", "original", "stabilized"], Object.keys(data.metric_names).filter((key) => key in data.metrics.values)
    .map((key) => [data.metric_names[key], data.metrics.input[key] ?? "", data.metrics.values[key]]));
  for (const [key, reason] of Object.entries(data.metrics.reasons)) note(metrics, `${data.metric_names[key]}: ${reason}`);
  for (const words of data.metrics.notes) note(metrics, words);
  table(details, "Found in the clip", null, Object.entries(data.findings).filter(([, value]) => !(Array.isArray(value) && !value.length)));
  table(details, "Time, seconds", null, Object.entries(data.timings_s));
  table(details, "Versions", null, Object.entries(data.versions));
  if (Object.keys(data.settings).length) {
    const fold = document.createElement("details");
    fold.innerHTML = "<summary>Settings</summary>";
    table(fold, "", null, Object.entries(data.settings));
    details.append(fold);
  }
  const size = (pair) => pair.join(" × ");
  byId("facts").textContent = [
    size(data.size), size(data.result_size) === size(data.size) ? "" : `result ${size(data.result_size)}`, `${Number(data.rate.toFixed(3))} frames/s`,
    `${data.frame_count} frames`,
  ].filter(Boolean).join(" · ");
  setMode("split");
  showFrame(0);
})();
