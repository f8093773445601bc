// The table: one row for each breaker, the worst first. An event changes the cells that it changes, in one animation frame.

import { Strip } from "./strip.js";
import { STATES, badge, clockTime, duration, element, failureText, holdText, number } from "./words.js";

const REST = 1500; // ms: rows do not move under a mouse that moved just now
const SORT_EVERY = 1000; // ms

export class Table {
  constructor(rows, onOpen) {
    this.element = rows;
    this.rows = new Map();
    this.now = 0;
    this.seconds = 5;
    this.words = [];
    this.onlyUnhealthy = false;
    this.onOpen = onOpen;
    this.current = null;
    this.chosen = null;
    this.dirty = new Set();
    this.unsorted = false;
    this.sortedAt = -Infinity;
    this.movedAt = -Infinity;
    this.frame = 0;
    this.visible = new IntersectionObserver((entries) => entries.forEach((entry) => {
      const row = this.rows.get(entry.target.dataset.name);
      if (row) {
        row.visible = entry.isIntersecting;
        if (row.visible && row.stale) this.drawStrip(row);
      }
    }), { rootMargin: "200px" });
    rows.addEventListener("pointermove", () => { this.movedAt = performance.now(); });
    rows.addEventListener("click", (event) => {
      const line = event.target.closest(".row");
      if (line) this.open(line.dataset.name);
    });
    rows.addEventListener("focusin", (event) => {
      const line = event.target.closest(".row");
      if (line) this.makeCurrent(this.rows.get(line.dataset.name));
    });
  }

  // Take what an event says; returns the rows that have come into another state, with the state before.
  take(event) {
    this.now = event.now;
    if (event.full) {
      this.seconds = event.seconds;
      const named = new Set(event.rows.map((it) => it.name));
      for (const name of [...this.rows.keys()]) if (!named.has(name)) this.remove(name);
    }
    const changed = [];
    for (const data of event.rows) {
      let row = this.rows.get(data.name);
      const before = row ? row.data.state : null;
      if (!row) row = this.add(data);
      if (event.full) row.strip = new Strip(event.strips[data.name], event.cell);
      else {
        if (!row.strip) row.strip = new Strip("-0".repeat(120), event.cell);
        row.strip.moveOn(event.cell, row.data.state);
        row.strip.take(data.recent, event.cell);
      }
      row.data = data;
      row.stale = true;
      if (before !== data.state) changed.push([data, before]);
      this.dirty.add(row);
    }
    for (const name of event.removed || []) this.remove(name);
    this.cell = event.cell;
    this.later();
    return changed;
  }

  add(data) {
    const cells = ["state", "name", "why", "strip", "number", "number", "number", "number"]
      .map((kind) => element("span", { role: "gridcell", class: `c-${kind}` }));
    ["refused /s", "failed /s", "calls /s", "in flight"].forEach((label, index) => { cells[index + 4].dataset.label = label; });
    const line = element("div", { role: "row", class: "row", tabindex: "-1" }, ...cells);
    line.dataset.name = data.name;
    const canvas = element("canvas", { role: "img" });
    cells[3].append(canvas);
    const why = [element("span"), element("span")];
    cells[2].append(...why);
    const [method, service, target] = parts(data.name);
    cells[1].append(element("b", {}, method), target === null ? "" : element("span", { class: "target" }, target),
      service === "" ? "" : element("span", { class: "service" }, service));
    const row = { data, line, cells, canvas, why, strip: null, written: {}, visible: false, stale: true, shown: true, moved: true, buckets: [0, 0] };
    this.rows.set(data.name, row);
    this.element.append(line);
    this.visible.observe(line);
    this.unsorted = true;
    if (this.current === null) this.makeCurrent(row);
    return row;
  }

  remove(name) {
    const row = this.rows.get(name);
    if (!row) return;
    this.rows.delete(name);
    this.dirty.delete(row);
    this.visible.unobserve(row.line);
    if (this.current === row) this.current = null;
    row.line.remove();
  }

  later() {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.flush(); });
  }

  flush() {
    for (const row of this.dirty) this.write(row);
    this.dirty.clear();
    const time = performance.now();
    if (this.unsorted && time - this.sortedAt > SORT_EVERY && time - this.movedAt > REST) this.sort(time);
  }

  // Each second: what changes with time alone.
  tick(now) {
    this.now = now;
    const cell = Math.floor(now / this.seconds);
    for (const row of this.rows.values()) {
      this.writeWhy(row);
      if (row.strip && row.strip.cell !== cell && cell - row.strip.cell < 200) {
        row.strip.moveOn(cell, row.data.state);
        row.stale = true;
      }
      if (row.visible && row.stale) this.drawStrip(row);
    }
    if (this.unsorted) this.later();
  }

  write(row) {
    const { data, cells, line } = row;
    this.set(row, "state", `${data.state} ${rank(data) === 0} ${data.in_state} ${data.processes} ${data.lost} ${data.trial}`, () => {
      const fresh = row.written.state !== undefined && !row.written.state.startsWith(`${data.state} `);
      cells[0].replaceChildren(badge(data.state), element("span", { class: "of" }, rank(data) === 0 ? `in ${data.processes}` : share(data)));
      line.className = `row ${data.state}${rank(data) > 1 ? " unhealthy" : ""}${rank(data) === 0 ? " calm" : ""}${fresh ? " fresh" : ""}`;
    });
    this.writeWhy(row);
    this.writeNumber(row, 4, number(data.refusals), data.refusals > 0);
    this.writeNumber(row, 5, number(data.failures), data.failures > 0);
    this.writeNumber(row, 6, number(data.calls), false);
    this.writeNumber(row, 7, String(data.in_flight), false, data.hung ? `${data.hung} hung` : "");
    const buckets = [bucket(data.refusals, row.buckets[0]), bucket(data.failures, row.buckets[1])];
    const key = `${rank(data)} ${buckets}`;
    row.buckets = buckets;
    if (row.key !== key) [row.key, row.rank, row.moved, this.unsorted] = [key, rank(data), true, true];
    if (row.visible) this.drawStrip(row);
    this.show(row);
  }

  writeNumber(row, index, text, bad, more = "") {
    this.set(row, index, `${text} ${bad} ${more}`, () => {
      row.cells[index].replaceChildren(text, more ? element("small", {}, more) : "");
      row.cells[index].classList.toggle("zero", text === "0");
      row.cells[index].classList.toggle("bad", bad);
    });
  }

  writeWhy(row) {
    const [first, second] = why(row.data, this.now);
    this.set(row, "first", first, () => { row.why[0].textContent = first; row.why[0].title = first; });
    this.set(row, "second", second, () => { row.why[1].textContent = second; row.why[1].title = second; });
    this.set(row, "held", Boolean(row.data.hold), () => row.why[1].classList.toggle("hold", Boolean(row.data.hold)));
  }

  set(row, what, value, write) {
    if (row.written[what] !== value) {
      write();
      row.written[what] = value;
    }
  }

  drawStrip(row) {
    if (!row.strip) return;
    row.stale = false;
    row.strip.draw(row.canvas);
    row.canvas.setAttribute("aria-label", row.strip.label(this.seconds));
  }

  drawAll() {
    for (const row of this.rows.values()) {
      row.stale = true;
      if (row.visible) this.drawStrip(row);
    }
  }

  sort(time) {
    this.unsorted = false;
    this.sortedAt = time;
    const focused = document.activeElement;
    const sorted = [...this.rows.values()].sort((one, other) => other.rank - one.rank || other.buckets[0] - one.buckets[0]
      || other.buckets[1] - one.buckets[1] || (one.data.name < other.data.name ? -1 : 1));
    let next = null; // rows whose key is as before are in order already: the others are moved between them
    for (const row of sorted.reverse()) {
      if (row.moved) this.element.insertBefore(row.line, next);
      row.moved = false;
      next = row.line;
    }
    if (focused !== document.activeElement && this.element.contains(focused)) focused.focus({ preventScroll: true });
  }

  // Filter and keyboard

  filter(text, onlyUnhealthy) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.onlyUnhealthy = onlyUnhealthy;
    for (const row of this.rows.values()) this.show(row);
  }

  show(row) {
    const { data } = row;
    let shown = !this.onlyUnhealthy || rank(data) > 0;
    if (shown && this.words.length) {
      const text = `${data.name} ${STATES[data.state].word} ${data.state} ${data.condition} ${data.hold ? data.hold.reason : ""}`.toLowerCase();
      shown = this.words.every((word) => text.includes(word));
    }
    if (shown !== row.shown) {
      row.shown = shown;
      row.line.hidden = !shown;
    }
  }

  shownRows() {
    return [...this.element.children].filter((line) => !line.hidden);
  }

  makeCurrent(row) {
    if (this.current) this.current.line.tabIndex = -1;
    this.current = row;
    row.line.tabIndex = 0;
  }

  // Move the focus by so many rows; to the first or the last one with an infinite number.
  move(by) {
    const shown = this.shownRows();
    if (!shown.length) return;
    const from = this.current ? shown.indexOf(this.current.line) : -1;
    const to = Math.max(0, Math.min(shown.length - 1, from + by));
    shown[to].focus();
    shown[to].scrollIntoView({ block: "nearest" });
  }

  open(name) {
    this.choose(name);
    this.onOpen(name);
  }

  choose(name) {
    if (this.chosen) this.chosen.line.removeAttribute("aria-selected");
    this.chosen = name === null ? null : this.rows.get(name) || null;
    if (this.chosen) this.chosen.line.setAttribute("aria-selected", "true");
  }
}

// How unhealthy a breaker is: 0 is healthy, 1 is closed with failures, refusals or hung calls.
export function rank(data) {
  return STATES[data.state].rank || (data.failures > 0 || data.refusals > 0 || data.hung > 0 ? 1 : 0);
}

// Rates within a factor of two are as good as equal, so that rows do not change places all the time.
function bucket(rate, before) {
  if (rate <= 0) return 0;
  const exact = Math.log2(rate) + 12;
  return before > 0 && Math.abs(exact - before) < 0.75 ? before : Math.max(1, Math.round(exact));
}

export function parts(name) {
  const at = name.lastIndexOf("@");
  const whole = at > 0 ? name.slice(0, at) : name;
  const slash = whole.lastIndexOf("/");
  return [whole.slice(slash + 1) || whole, slash > 0 ? whole.slice(0, slash) : "", at > 0 ? name.slice(at) : null];
}

function share(data) {
  const trial = data.trial ? ", on trial" : "";
  if (data.state === "unknown") return `0 of ${data.lost} reached${trial}`;
  const all = data.in_state === data.processes ? `in all ${data.processes}` : `in ${data.in_state} of ${data.processes}`;
  return `${data.processes === 1 ? "in 1 process" : all}${data.lost ? `, ${data.lost} lost` : ""}${trial}`;
}

function why(data, now) {
  const last = STATES[data.last_known].word;
  const began = data.unhealthy_since === null ? data.since : data.unhealthy_since;
  const since = began === null ? "" : `${duration(now - began)}, since ${clockTime(began)}`;
  const again = data.since !== null && data.since - began > 1 ? `${data.condition} ${duration(now - data.since)} ago` : data.condition;
  const first = data.state === "unknown" ? `no process can be reached; last known: ${last}` : [since, again].filter(Boolean).join(" · ");
  if (data.hold) return [first, holdText(data.hold, now)];
  const told = data.failure && (data.state !== "closed" || data.failures > 0);
  return [first, told ? failureText(data.failure) : ""];
}
