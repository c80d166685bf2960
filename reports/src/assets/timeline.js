// Draws the window [from, to] of a run: lanes, faults, marks, messages, and the cursor.
//
// Bounded work per frame: marks of one kind that would touch are drawn as one, and of the
// messages in the window only those nearest the cursor are drawn.

const ARROWS_MAX = 300;
const MARK_APART_PX = 4;
const TOP = 40;
const FAULT_COLOURS = 8;

// Where a mark lies in its lane, and its shape around (0, 0).
const MARKS = {
  "write-acked": { words: "write acknowledged", y: -8, style: "m-good", circle: 4.5 },
  "write-refused": { words: "write refused", y: -8, style: "m-refused", circle: 4 },
  "write-unknown": { words: "write unknown", y: -8, style: "m-unknown", path: "M0-5L5 0 0 5-5 0z" },
  "read": { words: "read", y: -8, style: "m-read", circle: 3 },
  "call": { words: "call", y: 8, style: "m-tick", path: "M0-4V4" },
  "landed": { words: "landed", y: 8, style: "m-quiet", path: "M-2.5-2.5h5v5h-5z" },
  "crash": { words: "crash", y: 0, style: "m-cross", path: "M-5-5L5 5M5-5L-5 5" },
  "restart": { words: "restart", y: 0, style: "m-good", path: "M-4-5L6 0-4 5z" },
  "violation": { words: "violation", y: 0, style: "m-bad", path: "M0-8L8 0 0 8-8 0z" },
};
const OTHER_MARK = { words: "other", y: 0, style: "m-quiet", circle: 2.5 };
const markOf = (kind) => (Object.hasOwn(MARKS, kind) ? MARKS[kind] : OTHER_MARK);

function seconds(ms) {
  return Number.isFinite(ms) ? `${(ms / 1000).toFixed(3)} s` : "–";
}

const grouped = (number) => number.toLocaleString("en");

// The page names no address, so the namespace is taken from an element that is in it.
const SVG_NAMESPACE = document.getElementById("timeline").namespaceURI;

function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG_NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function titled(element, text) {
  element.append(shape("title", {}, text));
  return element;
}

function markShape(mark, attributes) {
  return mark.circle
    ? shape("circle", { class: mark.style, r: mark.circle, ...attributes })
    : shape("path", { class: mark.style, d: mark.path, ...attributes });
}

// Every lane that the run names: those given, then any that only an event or a fault mentions.
function allLanes(run) {
  const lanes = new Map(run.lanes.map((lane) => [lane.id, lane]));
  const named = run.events.flatMap((event) => (event.to === null ? [event.lane] : [event.lane, event.to]));
  for (const id of named.concat(run.faults.flatMap((fault) => fault.lanes))) {
    if (!lanes.has(id)) lanes.set(id, { id, title: id, kind: "other" });
  }
  return [...lanes.values()];
}

function niceStep(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
}

function axisLabel(ms, step) {
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step / 1000) + 1e-9)));
  return `${(ms / 1000).toFixed(digits)} s`;
}

function createTimeline(run, lanes, faultClass, onSeek, onWindow) {
  const svg = document.getElementById("timeline");
  const overview = document.getElementById("overview");
  const note = document.getElementById("arrows-note");
  const clip = document.querySelector("#plot-clip rect");
  const rows = new Map(lanes.map((lane, index) => [lane.id, index]));
  const messages = run.events.filter((event) => event.to !== null);
  const layers = shape("g", {});
  const arrows = shape("g", { "clip-path": "url(#plot-clip)" });
  const marks = shape("g", { "clip-path": "url(#plot-clip)" });
  // On a narrow screen the titles stand inside the lanes, so they are drawn over what is there.
  const titles = shape("g", { class: "titles" });
  const cursorLine = shape("line", {});
  const cursorHead = shape("path", { d: "M-5-7h10l-5 7z" });
  const cursor = shape("g", { id: "cursor", "pointer-events": "none" }, cursorLine, cursorHead);
  svg.append(layers, arrows, marks, titles, cursor);
  svg.setAttribute("aria-label", `Time line of ${lanes.length} lanes, ${run.faults.length} faults and ${run.events.length} events; violation at ${seconds(run.at_ms)}. The tables below hold the same.`);

  let view = { from: 0, to: 1, cursor: 0, hidden: new Set() };
  let size = { gutter: 0, width: 1, lane: 44, height: 0 };
  const x = (ms) => size.gutter + ((ms - view.from) / (view.to - view.from)) * size.width;
  const timeAt = (px) => view.from + ((px - size.gutter) / size.width) * (view.to - view.from);
  const middle = (id) => TOP + rows.get(id) * size.lane + size.lane / 2 + (size.gutter ? 0 : 8);
  const inWindow = (from, to) => to >= view.from && from <= view.to;

  function measure() {
    const whole = svg.getBoundingClientRect().width || 800;
    const gutter = whole >= 680 ? 150 : 0;
    size = { gutter, width: whole - gutter - 8, lane: gutter ? 44 : 56, height: TOP + lanes.length * (gutter ? 44 : 56) + 26 };
    svg.setAttribute("height", size.height);
    document.getElementById("scrub").style.paddingLeft = `${Math.max(0, gutter - 8)}px`;
    for (const [key, value] of Object.entries({ x: gutter, y: 0, width: size.width + 8, height: size.height })) clip.setAttribute(key, value);
  }

  function lanesAndAxis() {
    const parts = [];
    const bottom = TOP + lanes.length * size.lane;
    lanes.forEach((lane, index) => {
      const top = TOP + index * size.lane;
      parts.push(shape("rect", { class: index % 2 ? "lane odd" : "lane", x: 0, y: top, width: size.gutter + size.width + 8, height: size.lane }));
      parts.push(shape("line", { class: "track", x1: size.gutter, x2: size.gutter + size.width, y1: middle(lane.id), y2: middle(lane.id) }));
    });
    const step = niceStep(view.to - view.from, Math.max(2, size.width / 110));
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      parts.push(shape("line", { class: "grid", x1: x(at), x2: x(at), y1: TOP, y2: bottom }));
      const edge = x(at) > size.gutter + size.width - 24 ? "end" : x(at) < size.gutter + 16 ? "start" : "middle";
      parts.push(shape("text", { x: x(at), y: bottom + 17, "text-anchor": edge }, axisLabel(at, step)));
    }
    return parts;
  }

  function laneTitles() {
    return lanes.flatMap((lane, index) => {
      const top = TOP + index * size.lane;
      const short = lane.title.length > 20 ? `${lane.title.slice(0, 19)}…` : lane.title;
      const title = shape("text", { class: "lane-title", x: 8, y: size.gutter ? top + 19 : top + 14 }, short);
      titled(title, `${lane.title} (${lane.kind})`);
      return size.gutter ? [title, shape("text", { x: 8, y: top + 34 }, lane.kind)] : [title];
    });
  }

  function faults() {
    const parts = [];
    const stacked = new Map();
    for (const fault of run.faults) {
      if (view.hidden.has(fault.kind) || !inWindow(fault.from_ms, fault.to_ms)) continue;
      const left = x(fault.from_ms);
      const width = Math.max(2, x(fault.to_ms) - left);
      for (const id of fault.lanes) {
        // Faults that overlap in a lane get their edge one below the other.
        const ends = stacked.get(id) ?? stacked.set(id, []).get(id);
        let level = ends.findIndex((end) => end <= fault.from_ms);
        if (level < 0) level = ends.length;
        ends[level] = fault.to_ms;
        const top = TOP + rows.get(id) * size.lane;
        const style = faultClass.get(fault.kind);
        const text = `${fault.kind}, ${seconds(fault.from_ms)} to ${seconds(fault.to_ms)}, felt ${fault.felt}×${fault.detail ? `: ${fault.detail}` : ""}`;
        parts.push(titled(shape("g", { class: style, "clip-path": "url(#plot-clip)" },
          shape("rect", { class: "fault-shade", x: left, y: top + 1, width, height: size.lane - 2 }),
          shape("rect", { class: "fault-edge", x: left, y: top + 1 + (level % 4) * 4, width, height: 3 })), text));
      }
    }
    return parts;
  }

  function moments() {
    const parts = [];
    const lines = [["recovered", run.recovered_ms, "whole again", 0], ["healed", run.healed_ms, "last fault ended", 0], ["violation", run.at_ms, "violation", 1]];
    for (const [name, at, words, row] of lines) {
      if (at === null || !inWindow(at, at)) continue;
      parts.push(shape("line", { class: `line-${name}`, x1: x(at), x2: x(at), y1: 14 + row * 14, y2: size.height - 24 }));
      // The two labels that share a row are written away from each other.
      const left = name === "healed" ? x(at) > size.gutter + 110 : x(at) > size.gutter + size.width - 90;
      parts.push(shape("text", { class: `${name}-label`, x: x(at) + (left ? -5 : 5), y: 12 + row * 14, "text-anchor": left ? "end" : "start" }, words));
    }
    return parts;
  }

  function marksAndBars() {
    const bars = [];
    const bins = new Map();
    for (const event of run.events) {
      const until = event.until_ms ?? event.at_ms;
      if (!inWindow(event.at_ms, until)) continue;
      if (event.to === null && x(until) - x(event.at_ms) > MARK_APART_PX) {
        const y = middle(event.lane) + markOf(event.kind).y;
        bars.push(shape("line", { class: "span-bar", x1: x(event.at_ms), x2: x(until), y1: y, y2: y }));
      }
      if (event.at_ms < view.from) continue;
      const key = `${rows.get(event.lane)} ${Math.floor(x(event.at_ms) / MARK_APART_PX)} ${event.kind}`;
      const bin = bins.get(key);
      if (bin) { bin.count += 1; bin.last = event; } else bins.set(key, { event, last: event, count: 1 });
    }
    const drawn = [...bins.values()].map(({ event, last, count }) => {
      const mark = markOf(event.kind);
      const element = markShape(mark, { transform: `translate(${x(event.at_ms)} ${middle(event.lane) + mark.y})`, "data-at": event.at_ms });
      const text = `${seconds(event.at_ms)} ${event.kind}: ${event.text}`;
      return titled(element, count === 1 ? text : `${count} × ${event.kind}, to ${seconds(last.at_ms)}; first: ${text}`);
    });
    return bars.concat(drawn);
  }

  function drawArrows() {
    const visible = messages.filter((event) => inWindow(event.at_ms, event.until_ms ?? event.at_ms));
    const distance = (event) => Math.max(event.at_ms - view.cursor, view.cursor - (event.until_ms ?? event.at_ms), 0);
    const chosen = visible.length <= ARROWS_MAX ? visible : visible.toSorted((a, b) => distance(a) - distance(b)).slice(0, ARROWS_MAX);
    const crowded = chosen.length < visible.length;
    arrows.setAttribute("class", crowded ? "crowded" : "");
    arrows.replaceChildren(...chosen.map((event) => {
      const until = event.until_ms ?? event.at_ms;
      const line = shape("line", { class: "message-line", x1: x(event.at_ms), y1: middle(event.lane), x2: x(until), y2: middle(event.to) });
      // Heads of so many messages would only cover the lanes.
      if (!crowded) line.setAttribute("marker-end", "url(#arrow)");
      return titled(line, `${seconds(event.at_ms)} ${event.text}`);
    }));
    note.hidden = !crowded;
    note.textContent = note.hidden ? "" : `${grouped(chosen.length)} of the ${grouped(visible.length)} messages in this window are drawn: those nearest the cursor. Zoom in to see all.`;
  }

  function drawOverview() {
    const width = overview.getBoundingClientRect().width || 800;
    const scale = (ms) => (ms / run.end_ms) * width;
    const bins = new Array(Math.max(1, Math.floor(width / 3))).fill(0);
    for (const event of run.events) {
      bins[Math.max(0, Math.min(bins.length - 1, Math.floor((event.at_ms / run.end_ms) * bins.length)))] += 1;
    }
    const most = Math.max(1, ...bins);
    const parts = [shape("rect", { class: "back", x: 0.5, y: 0.5, width: width - 1, height: 33, rx: 5 })];
    for (const fault of run.faults) {
      if (view.hidden.has(fault.kind)) continue;
      parts.push(shape("rect", { class: `fault-shade ${faultClass.get(fault.kind)}`, x: scale(fault.from_ms), y: 1, width: Math.max(1, scale(fault.to_ms) - scale(fault.from_ms)), height: 32 }));
    }
    bins.forEach((count, index) => {
      if (count === 0) return;
      const height = Math.max(2, 28 * Math.sqrt(count / most));
      parts.push(shape("rect", { class: "density", x: (index * width) / bins.length, y: 32 - height, width: 2, height }));
    });
    parts.push(shape("line", { class: "line-violation", x1: scale(run.at_ms), x2: scale(run.at_ms), y1: 1, y2: 33 }));
    parts.push(shape("rect", { class: "window", x: scale(view.from) + 1, y: 1, width: Math.max(4, scale(view.to) - scale(view.from) - 2), height: 32, rx: 4 }));
    overview.replaceChildren(...parts);
  }

  function drawCursor() {
    const at = x(view.cursor);
    cursorLine.setAttribute("x1", at);
    cursorLine.setAttribute("x2", at);
    cursorLine.setAttribute("y1", TOP - 6);
    cursorLine.setAttribute("y2", size.height - 20);
    cursorHead.setAttribute("transform", `translate(${at} ${TOP - 4})`);
  }

  function draw(next) {
    view = next;
    measure();
    layers.replaceChildren(...lanesAndAxis(), ...faults(), ...moments());
    marks.replaceChildren(...marksAndBars());
    titles.replaceChildren(...laneTitles());
    drawArrows();
    drawOverview();
    drawCursor();
  }

  function seek(next) {
    view = next;
    if (!note.hidden) drawArrows();
    drawCursor();
  }

  // A drag moves the window; a press that stays in place moves the cursor.
  let drag = null;
  svg.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, from: view.from, to: view.to, moved: false, at: event.target.dataset?.at };
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    const moved = event.clientX - drag.x;
    drag.moved ||= Math.abs(moved) > 4;
    if (!drag.moved) return;
    const shift = (-moved / size.width) * (drag.to - drag.from);
    onWindow(drag.from + shift, drag.to + shift);
  });
  svg.addEventListener("pointercancel", () => { drag = null; });
  svg.addEventListener("pointerup", (event) => {
    if (drag !== null && !drag.moved) {
      onSeek(drag.at === undefined ? timeAt(event.clientX - svg.getBoundingClientRect().left) : Number(drag.at));
    }
    drag = null;
  });
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = timeAt(event.clientX - svg.getBoundingClientRect().left);
    const factor = event.deltaY > 0 ? 1.25 : 0.8;
    onWindow(at - (at - view.from) * factor, at + (view.to - at) * factor);
  }, { passive: false });
  const centre = (event) => {
    const box = overview.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * run.end_ms;
    const half = (view.to - view.from) / 2;
    onWindow(at - half, at + half);
  };
  overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); centre(event); });
  overview.addEventListener("pointermove", (event) => { if (event.buttons) centre(event); });

  return { draw, seek };
}
