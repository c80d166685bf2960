// Puts a run under a movable cursor: the window, the scrubber, the state of the stores and the
// events around the cursor. Data reaches the document as text only.

const STATES_SHOWN_MAX = 200;
const EVENTS_EACH_SIDE = 20;
const WINDOW_MS_MIN = 0.5;
// A longer run opens around the violation, where its events can be told apart.
const EVENTS_AT_ONCE = 400;

const byId = (id) => document.getElementById(id);
const run = JSON.parse(byId("run").textContent);

// The run is as long as the latest thing in it, whatever end it states.
run.events.sort((a, b) => a.at_ms - b.at_ms);
run.states.sort((a, b) => a.at_ms - b.at_ms);
let latest = Math.max(1, run.end_ms, run.at_ms, run.healed_ms ?? 0, run.recovered_ms ?? 0);
for (const event of run.events) latest = Math.max(latest, event.at_ms, event.until_ms ?? 0);
for (const state of run.states) latest = Math.max(latest, state.at_ms);
run.end_ms = latest;

const lanes = allLanes(run);
const laneTitles = new Map(lanes.map((lane) => [lane.id, lane.title]));
const laneTitle = (id) => laneTitles.get(id) ?? id;
const faultKinds = [...new Set(run.faults.map((fault) => fault.kind))].sort();
const faultClass = new Map(faultKinds.map((kind, index) => [kind, `f${index % FAULT_COLOURS}`]));
const moments = [...new Set([...run.events, ...run.states].map((each) => each.at_ms))].sort((a, b) => a - b);

const view = { from: 0, to: run.end_ms, cursor: Math.min(run.at_ms, run.end_ms), hidden: new Set() };

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// The number of entries of a sorted list that are at or before a moment.
function countUpTo(list, ms, at) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const half = (low + high) >> 1;
    if (at(list[half]) <= ms) low = half + 1; else high = half;
  }
  return low;
}

// ---- the state of the stores ----

const stores = [...new Set([...run.lanes.filter((lane) => lane.kind === "store").map((lane) => lane.id), ...run.states.map((state) => state.store)])];
const histories = new Map();
for (const state of run.states) {
  if (!histories.has(state.record)) histories.set(state.record, new Map(stores.map((store) => [store, []])));
  histories.get(state.record).get(state.store).push(state);
}
const records = [...histories.keys()].sort();

function recordAt(record, ms) {
  const cells = stores.map((store) => {
    const history = histories.get(record).get(store);
    return history[countUpTo(history, ms, (state) => state.at_ms) - 1] ?? null;
  });
  // A store that holds nothing counts as different from one that holds something.
  const distinct = (field) => new Set(cells.map((cell) => cell?.[field] ?? "")).size > 1;
  const difference = distinct("value") ? "differs" : distinct("version") ? "version-differs" : "";
  return { record, cells, difference, known: cells.some((cell) => cell !== null) };
}

function stateCell(cell) {
  if (cell === null) return element("td", { class: "held" }, element("span", { class: "muted" }, "nothing"));
  const value = cell.value === "" ? element("span", { class: "muted" }, "nothing") : element("code", {}, cell.value);
  const particulars = [cell.version, cell.note, `since ${seconds(cell.at_ms)}`].filter((text) => text !== "").join(" · ");
  return element("td", { class: "held" }, value, element("small", {}, particulars));
}

function renderStates() {
  const known = records.map((record) => recordAt(record, view.cursor)).filter((row) => row.known);
  const differing = known.filter((row) => row.difference !== "");
  let shown = byId("only-differing").checked ? differing : known;
  let cut = "";
  if (shown.length > STATES_SHOWN_MAX) {
    // Those that agree make room first; the order stays that of the records.
    const kept = new Set(shown.toSorted((a, b) => (a.difference === "") - (b.difference === "")).slice(0, STATES_SHOWN_MAX));
    cut = ` Showing ${STATES_SHOWN_MAX} of ${shown.length}, those that differ first.`;
    shown = shown.filter((row) => kept.has(row));
  }
  byId("states-summary").textContent = known.length === 0
    ? "No store holds anything yet."
    : `${grouped(differing.length)} of ${grouped(known.length)} records differ between stores.${cut}`;
  const words = { "differs": ["bad", "differs"], "version-differs": ["warn", "version differs"] };
  document.querySelector("#states tbody").replaceChildren(...shown.map((row) => {
    const head = element("th", { scope: "row" }, element("code", {}, row.record));
    if (row.difference !== "") {
      const [colour, text] = words[row.difference];
      head.append(element("small", {}, element("span", { class: `pill ${colour}` }, text)));
    }
    return element("tr", row.difference === "" ? {} : { class: row.difference }, head, ...row.cells.map(stateCell));
  }));
}

function renderStatesHead() {
  const head = element("tr", {}, element("th", { scope: "col" }, "Record"), ...stores.map((store) => element("th", { scope: "col" }, laneTitle(store))));
  document.querySelector("#states thead").replaceChildren(head);
}

// ---- the events around the cursor ----

let filtered = run.events;

function filterEvents() {
  const lane = byId("event-lane").value;
  const kind = byId("event-kind").value;
  filtered = run.events.filter((event) => (lane === "" || event.lane === lane || event.to === lane) && (kind === "" || event.kind === kind));
}

function renderEvents() {
  const done = countUpTo(filtered, view.cursor, (event) => event.at_ms);
  const start = Math.max(0, done - EVENTS_EACH_SIDE);
  const end = Math.min(filtered.length, done + EVENTS_EACH_SIDE);
  byId("events-summary").textContent = filtered.length === 0
    ? "No event matches."
    : `Events ${grouped(start + 1)} to ${grouped(end)} of ${grouped(filtered.length)}; those after the cursor are grey.`;
  document.querySelector("#events tbody").replaceChildren(...filtered.slice(start, end).map((event, offset) => {
    const index = start + offset;
    const classes = [event.kind === "violation" ? "violation" : "", index === done - 1 ? "now" : "", index >= done ? "later" : ""].join(" ").trim();
    const lane = event.to === null ? laneTitle(event.lane) : `${laneTitle(event.lane)} → ${laneTitle(event.to)}`;
    const attributes = classes === "" ? {} : { class: classes };
    if (index === done - 1) attributes["aria-current"] = "true";
    return element("tr", attributes,
      element("th", { scope: "row", class: "num" }, element("a", { href: `#t=${event.at_ms}` }, seconds(event.at_ms))),
      element("td", {}, lane),
      element("td", {}, event.text, element("small", {}, event.kind)));
  }));
}

// ---- cursor and window ----

const timeline = createTimeline(run, lanes, faultClass, moveCursor, moveWindow);
const scrubber = byId("scrubber");
let frame = 0;
let address = 0;

// One drawing per frame, however many moves arrive within it.
let wanted = null;
function draw(what) {
  wanted = wanted === "window" ? "window" : what;
  if (frame === 0) frame = requestAnimationFrame(drawNow);
}

function drawNow() {
  frame = 0;
  if (wanted === "window") {
    timeline.draw(view);
    scrubber.min = view.from;
    scrubber.max = view.to;
    byId("window-from").value = (view.from / 1000).toFixed(3);
    byId("window-to").value = (view.to / 1000).toFixed(3);
  } else {
    timeline.seek(view);
  }
  scrubber.value = view.cursor;
  scrubber.setAttribute("aria-valuetext", seconds(view.cursor));
  wanted = null;
  byId("cursor-time").textContent = seconds(view.cursor);
  for (const place of document.querySelectorAll(".at-cursor")) place.textContent = seconds(view.cursor);
  renderStates();
  renderEvents();
}

function moveWindow(from, to) {
  const span = Math.min(run.end_ms, Math.max(WINDOW_MS_MIN, to - from));
  view.from = Math.max(0, Math.min(from, run.end_ms - span));
  view.to = view.from + span;
  draw("window");
}

// Moves the cursor; a cursor outside the window takes the window along.
function moveCursor(ms) {
  view.cursor = Math.max(0, Math.min(run.end_ms, ms));
  if (view.cursor < view.from || view.cursor > view.to) {
    const half = (view.to - view.from) / 2;
    moveWindow(view.cursor - half, view.cursor + half);
  } else {
    draw("cursor");
  }
  clearTimeout(address);
  address = setTimeout(() => {
    // Only for sharing the moment; a browser that forbids it for pages from disk loses nothing.
    try { history.replaceState(null, "", `#t=${view.cursor}`); } catch { /* see above */ }
  }, 250);
}

function step(direction) {
  const before = countUpTo(moments, view.cursor, (moment) => moment);
  if (direction > 0) {
    if (before < moments.length) moveCursor(moments[before]);
    return;
  }
  const onMoment = moments[before - 1] === view.cursor;
  const target = moments[before - (onMoment ? 2 : 1)];
  if (target !== undefined) moveCursor(target);
}

function zoom(factor) {
  const half = ((view.to - view.from) / 2) * factor;
  const inside = view.cursor >= view.from && view.cursor <= view.to;
  const middle = inside ? view.cursor : (view.from + view.to) / 2;
  moveWindow(middle - half, middle + half);
}

function aroundViolation() {
  const half = Math.max(1000, run.end_ms / 40);
  moveWindow(run.at_ms - half, run.at_ms + half);
  moveCursor(run.at_ms);
}

function onKey(event) {
  const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (direction === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (event.shiftKey) moveCursor(view.cursor + direction * 100); else step(direction);
}

function fromAddress() {
  const match = /^#t=(\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/.exec(location.hash);
  if (match === null) return false;
  moveCursor(Number(match[1]));
  return true;
}

function renderLegends() {
  const chips = faultKinds.map((kind) => {
    const chip = element("button", { type: "button", "aria-pressed": "true", class: faultClass.get(kind) }, element("i", {}), kind);
    chip.addEventListener("click", () => {
      const hide = !view.hidden.has(kind);
      if (hide) view.hidden.add(kind); else view.hidden.delete(kind);
      chip.setAttribute("aria-pressed", String(!hide));
      draw("window");
    });
    return chip;
  });
  byId("fault-legend").append(element("h3", {}, chips.length === 0 ? "No faults" : "Faults"), ...chips);
  const present = new Map(run.events.map((event) => [markOf(event.kind).words, markOf(event.kind)]));
  byId("mark-legend").append(element("h3", {}, "Marks"), ...[...present].map(([words, mark]) => {
    const icon = shape("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, markShape(mark, {}));
    return element("span", { class: "key" }, icon, words);
  }));
}

function start() {
  byId("timeline-view").hidden = false;
  byId("cursor-view").hidden = false;
  const addOptions = (id, entries) => byId(id).append(...entries.map(([value, text]) => element("option", { value }, text)));
  addOptions("event-lane", lanes.map((lane) => [lane.id, lane.title]));
  addOptions("event-kind", [...new Set(run.events.map((event) => event.kind))].sort().map((kind) => [kind, kind]));
  renderLegends();
  renderStatesHead();

  const onClick = (id, action) => byId(id).addEventListener("click", action);
  onClick("zoom-in", () => zoom(0.5));
  onClick("zoom-out", () => zoom(2));
  onClick("window-all", () => moveWindow(0, run.end_ms));
  onClick("window-violation", aroundViolation);
  onClick("step-back", () => step(-1));
  onClick("step-on", () => step(1));
  onClick("to-violation", () => moveCursor(run.at_ms));
  scrubber.addEventListener("input", () => moveCursor(Number(scrubber.value)));
  scrubber.addEventListener("keydown", onKey);
  byId("only-differing").addEventListener("change", renderStates);
  for (const id of ["event-lane", "event-kind"]) {
    byId(id).addEventListener("change", () => { filterEvents(); renderEvents(); });
  }
  for (const id of ["window-from", "window-to"]) {
    byId(id).addEventListener("change", () => {
      const from = Number(byId("window-from").value) * 1000;
      const to = Number(byId("window-to").value) * 1000;
      // A window that ends before it begins is not taken; the fields fall back to what is shown.
      if (to > from) moveWindow(from, to); else draw("window");
    });
  }
  addEventListener("hashchange", () => {
    const inEvents = byId("events").contains(document.activeElement);
    if (fromAddress() && !inEvents) byId("timeline-title").scrollIntoView({ block: "start" });
  });
  addEventListener("resize", () => draw("window"));

  const download = byId("download");
  download.href = URL.createObjectURL(new Blob([run.scenario_json], { type: "application/json" }));
  download.download = run.scenario_file;
  download.hidden = false;

  if (run.events.length > EVENTS_AT_ONCE) aroundViolation();
  fromAddress();
  moveWindow(view.from, view.to);
  cancelAnimationFrame(frame);
  drawNow();
}

start();
