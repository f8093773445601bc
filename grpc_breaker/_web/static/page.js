// The page: brings the server's events to the table, and the keyboard to everything.

import { ask, follow } from "./events.js";
import { OrderDialog } from "./order.js";
import { Pane } from "./pane.js";
import { forgetColours } from "./strip.js";
import { Table, rank } from "./table.js";
import { STATES, badge, clockTime, count, duration, element, processName } from "./words.js";

const MOST_LOST = 4;
const byId = (id) => document.getElementById(id);
const token = window.location.hash.slice(1);
const processes = new Map();
const offset = { seconds: 0 }; // the server's clock before ours
const now = () => Date.now() / 1000 + offset.seconds;
let leftOut = 0;
let known = false;

const askServer = (path, body) => ask(token, path, body);
const table = new Table(byId("rows"), (name) => pane.open(name));
const dialog = new OrderDialog({ ask: askServer, processes, onDone: () => pane.refresh() });
const pane = new Pane(byId("pane"), byId("split"), {
  ask: askServer,
  processes,
  order: (what, name) => order(what, name),
  onClose: (name) => {
    const row = table.rows.get(name);
    table.choose(null);
    if (row) row.line.focus({ preventScroll: true });
  },
});

function order(what, name) {
  const row = table.rows.get(name);
  if (row) dialog.open(what, row.data);
}

// Events

function take(event) {
  offset.seconds = event.now - Date.now() / 1000;
  byId("contact").className = "contact";
  byId("contact").textContent = "live";
  const changed = table.take(event);
  if (event.processes) takeProcesses(event.processes);
  summarize();
  if (!event.full || known) announce(changed);
  known = true;
  if (pane.name !== null && changed.some(([data]) => data.name === pane.name)) pane.refresh();
}

function lost(why) {
  const contact = byId("contact");
  if (!contact.classList.contains("lost")) {
    contact.className = "contact lost";
    contact.textContent = `${why}. ${known ? `What is shown is from ${clockTime(now())}.` : ""}`;
  }
}

function takeProcesses({ list, left_out: left }) {
  leftOut = left;
  processes.clear();
  for (const process of list) processes.set(process.id, process);
  byId("fleet-list").replaceChildren(...list.map((it) => element("li", {}, element("b", {}, processName(it)), ` ${it.status}`,
    element("div", { class: "faint" }, [it.target, it.version && `grpc_breaker ${it.version}`, count(it.breakers, "breaker"),
      it.version && (it.allow_changes ? "changes allowed" : "read-only"), it.polled && "polled: too many watch it", it.why].filter(Boolean).join(" · ")))));
  writeTrouble();
}

function writeTrouble() {
  const lostOnes = [...processes.values()].filter((it) => it.status === "unreachable");
  const goneOnes = [...processes.values()].filter((it) => it.status === "gone");
  const shown = lostOnes.slice(0, MOST_LOST)
    .map((it) => `${processName(it)} has been unreachable for ${duration(now() - it.since)}: ${it.why}`);
  if (lostOnes.length > MOST_LOST) shown.push(`${lostOnes.length - MOST_LOST} more processes are unreachable`);
  if (goneOnes.length) {
    const more = goneOnes.length > MOST_LOST ? ` and ${goneOnes.length - MOST_LOST} more` : "";
    shown.push(`gone within the last minutes: ${goneOnes.slice(0, MOST_LOST).map(processName).join(", ")}${more}`);
  }
  if (leftOut) shown.push(`${count(leftOut, "breaker")} beyond the limit of this page are not shown`);
  const list = byId("trouble");
  if (shown.join("\n") !== [...list.children].map((it) => it.textContent).join("\n")) {
    list.replaceChildren(...shown.map((text) => element("li", {}, text)));
  }
}

let summary = "";
function summarize() {
  const counts = Object.fromEntries(Object.keys(STATES).map((state) => [state, 0]));
  let failing = 0;
  for (const { data } of table.rows.values()) {
    counts[data.state] += 1;
    failing += rank(data) === 1;
  }
  counts.closed -= failing;
  const connected = [...processes.values()].filter((it) => it.status === "connected").length;
  const watched = [...processes.values()].filter((it) => it.status !== "gone").length;
  const fleet = connected === watched ? count(watched, "process", "processes") : `${connected} of ${count(watched, "process", "processes")}`;
  const text = JSON.stringify([counts, failing, fleet]);
  if (text === summary) return;
  summary = text;
  document.title = counts.open + counts.forced_open ? `(${counts.open + counts.forced_open} open) Circuit breakers` : "Circuit breakers";
  const tiles = Object.keys(STATES).filter((state) => counts[state] || state === "open").map((state) => {
    const tile = badge(counts[state] ? state : "closed");
    tile.lastChild.textContent = `${counts[state]} ${STATES[state].word}`;
    return tile;
  });
  if (failing) tiles.splice(-1, 0, element("span", { class: "badge half_open" }, `${failing} closed with failures`));
  byId("summary").replaceChildren(...tiles);
  byId("fleet-summary").textContent = fleet;
  tellEmpty();
}

let waiting = [];
function announce(changed) {
  const opened = changed.filter(([data]) => data.state === "open" || data.state === "forced_open")
    .filter(([, before]) => before !== "half_open").map(([data]) => `${STATES[data.state].word}: ${data.name} ${data.condition}`);
  if (!opened.length) return;
  if (!waiting.length) {
    setTimeout(() => {
      const more = waiting.length > 3 ? `, and ${waiting.length - 3} more` : "";
      byId("news").textContent = waiting.slice(0, 3).join(", ") + more;
      waiting = [];
    }, 500);
  }
  waiting.push(...opened);
}

// Filter

function filter() {
  table.filter(byId("filter").value, byId("unhealthy").checked);
  try {
    window.sessionStorage.setItem("filter", JSON.stringify([byId("filter").value, byId("unhealthy").checked]));
  } catch { /* a browser that keeps nothing: the filter is empty after a reload */ }
  tellEmpty();
}

function tellEmpty() {
  const shown = table.shownRows().length;
  byId("empty").hidden = shown > 0;
  if (shown === 0) {
    byId("empty").textContent = table.rows.size === 0 ? "No breakers yet: a process has one once a call is made."
      : byId("unhealthy").checked && !byId("filter").value ? "All breakers are healthy." : "No breaker fits the filter.";
  }
}

byId("filter").addEventListener("input", filter);
byId("unhealthy").addEventListener("change", filter);
try {
  [byId("filter").value, byId("unhealthy").checked] = JSON.parse(window.sessionStorage.getItem("filter") || '["", false]');
} catch { /* as above */ }
filter();

// Keyboard

const MOVES = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 12, PageUp: -12, Home: -Infinity, End: Infinity };
const ORDER_KEYS = { o: "force-open", d: "disable", r: "reset" };

function onRows(event) {
  const { name } = event.target.closest(".row").dataset;
  if (event.key in MOVES) table.move(MOVES[event.key]);
  else if (event.key === "Enter" || event.key === " ") table.open(name);
  else if (event.key in ORDER_KEYS) order(ORDER_KEYS[event.key], name);
  else if (event.key === "u") byId("unhealthy").click();
  else return false;
  return true;
}

function onFilter(event) {
  if (event.key === "ArrowDown" || event.key === "Enter") {
    table.current = null;
    table.move(1);
  } else if (event.key === "Escape" && byId("filter").value) {
    byId("filter").value = "";
    filter();
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.dialog.open) return;
  const inField = event.target.matches("input");
  let done = false;
  if (event.target === byId("filter")) done = onFilter(event);
  else if (event.target.closest("#rows")) done = onRows(event);
  if (!done && event.key === "/" && !event.target.matches("input[type=search]")) {
    byId("filter").focus();
    byId("filter").select();
    done = true;
  } else if (!done && event.key === "Escape") {
    if (byId("fleet").open) byId("fleet").open = false;
    else pane.close();
    done = true;
  } else if (!done && !inField && event.key === "ArrowDown" && event.target === document.body) {
    table.move(0);
    done = true;
  }
  if (done) event.preventDefault();
});

// Time

setInterval(() => {
  table.tick(now());
  writeTrouble();
}, 1000);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  forgetColours();
  table.drawAll();
});

if (token) follow(token, take, lost);
else lost("The token of this run is missing: open the address that grpc-breaker web printed");
