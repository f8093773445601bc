// The details of one breaker: each process that has it, its last failures and changes, its policy.

import { STATES, badge, clockTime, count, duration, element, failureText, holdText, number, processName } from "./words.js";

const MOST_CHANGES = 40;
const EVERY = 5000; // ms
const TOGETHER = 10; // s

export class Pane {
  constructor(pane, split, { ask, order, processes, onClose }) {
    Object.assign(this, { pane, split, ask, order, processes, onClose });
    this.name = null;
    this.timer = 0;
  }

  open(name) {
    this.name = name;
    const close = element("button", { type: "button", onclick: () => this.close(), "aria-keyshortcuts": "Escape" }, "Close");
    const buttons = [["force-open", "Force open …"], ["disable", "Disable …"], ["reset", "Reset …"]]
      .map(([what, words]) => element("button", { type: "button", onclick: () => this.order(what, name) }, words));
    this.body = element("div", {}, element("p", { class: "faint" }, "asking …"));
    this.pane.replaceChildren(element("header", {}, element("h2", { id: "pane-name" }, name), close),
      element("div", { class: "buttons" }, ...buttons), this.body);
    this.pane.hidden = false;
    this.split.classList.add("with-pane");
    this.pane.focus({ preventScroll: true });
    this.refresh();
  }

  close() {
    if (this.name === null) return;
    const name = this.name;
    this.name = null;
    clearTimeout(this.timer);
    this.pane.hidden = true;
    this.split.classList.remove("with-pane");
    this.onClose(name);
  }

  async refresh() {
    clearTimeout(this.timer);
    const name = this.name;
    if (name === null) return;
    let shown;
    try {
      shown = this.build(await this.ask(`/breaker?name=${encodeURIComponent(name)}`));
    } catch (error) {
      shown = [element("p", { class: "error" }, error.message)];
    }
    if (name !== this.name) return;
    clearTimeout(this.timer);
    this.body.replaceChildren(...shown);
    this.timer = setTimeout(() => this.refresh(), EVERY);
  }

  build(data) {
    const all = data.processes;
    const named = (it) => {
      const process = this.processes.get(it.process);
      return process ? processName(process) : "a process that is gone";
    };
    const policy = all.find((it) => it.policy);
    return [
      ...failures(all),
      ...changes(all, named),
      element("h3", {}, count(all.length, "process", "processes"), data.left_out ? `, and ${data.left_out} more that are no worse` : ""),
      element("div", { class: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, ...["Process", "State"].map((it) => element("th", {}, it)),
          ...["Refused /s", "Failed /s", "Calls /s", "In flight"].map((it) => element("th", { class: "number" }, it)))),
        element("tbody", {}, ...all.flatMap((it) => processRows(it, named(it), data.now))))),
      ...(policy ? [element("h3", {}, "Policy"), policyList(policy.policy)] : []),
    ];
  }
}

function processRows(it, name, now) {
  const facts = [
    it.since === null ? "" : `${duration(now - it.since)} · ${clockTime(it.since)}`,
    it.condition,
    it.state === "open" && it.retry_after !== null ? (it.retry_after > 0 ? `next probe in ${duration(it.retry_after)}` : "next call is a probe") : "",
    it.hold ? holdText(it.hold, now) : "",
    it.trial ? "on trial: refuses nothing" : "",
    it.error,
  ].filter(Boolean);
  const flight = it.hung ? `${it.in_flight}, ${it.hung} hung` : it.in_flight;
  const numbers = [number(it.refusals), number(it.failures), number(it.calls), String(flight)];
  const first = element("tr", {}, element("td", {}, name), element("td", {}, badge(it.state)),
    ...numbers.map((text) => element("td", { class: "number" }, text)));
  if (!facts.length) return [first];
  first.className = "more";
  return [first, element("tr", {}, element("td", { colspan: "6", class: "faint" }, facts.join(" · ")))];
}

function failures(all) {
  const counted = new Map();
  for (const it of all) {
    for (const text of new Set(it.last_failures.map((failure) => failureText([failure.status, failure.details])))) {
      counted.set(text, (counted.get(text) || 0) + 1);
    }
  }
  const sorted = [...counted].sort((one, other) => other[1] - one[1]).slice(0, 10);
  return [element("h3", {}, "Last failures"), sorted.length
    ? element("ul", {}, ...sorted.map(([text, processes]) => element("li", {}, text,
      all.length > 1 ? element("span", { class: "faint" }, ` — in ${count(processes, "process", "processes")}`) : "")))
    : element("p", { class: "faint" }, "none in the window, or they are hidden")];
}

function changes(all, named) {
  const sorted = all.flatMap((it) => it.changes.map((change) => ({ ...change, processes: [named(it)] })))
    .sort((one, other) => other.time - one.time);
  const shown = together(sorted).slice(0, MOST_CHANGES).map((it) => element("li", {},
    `${clockTime(it.time)} ${STATES[it.previous].word} → `, element("b", {}, STATES[it.state].word), ` ${it.reason}`,
    it.calls ? `, ${it.failures} of ${it.calls} failed` : "", it.status ? element("span", { title: it.details }, `, ${it.status}`) : it.details ? `: ${it.details}` : "",
    all.length > 1 ? element("span", { class: "faint" }, ` — ${it.processes.length > 3 ? `in ${it.processes.length} processes` : it.processes.join(", ")}`) : ""));
  return [element("h3", {}, "Last changes"), shown.length ? element("ul", {}, ...shown) : element("p", { class: "faint" }, "none")];
}

// The same change in several processes within some seconds is told once, at the time of the first.
function together(sorted) {
  const groups = [];
  for (const change of sorted) {
    const same = groups.findLast((it) => it.previous === change.previous && it.state === change.state && it.reason === change.reason
      && it.status === change.status && it.details === change.details);
    if (same && same.time - change.time < TOGETHER && !same.processes.includes(change.processes[0])) {
      same.processes.push(change.processes[0]);
      same.time = change.time;
    } else groups.push(change);
  }
  return groups;
}

function policyList(policy) {
  const set = Object.entries(policy).filter(([, value]) => value !== null);
  return element("dl", {}, ...set.flatMap(([name, value]) => [
    element("dt", { class: "faint" }, name),
    element("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)),
  ]));
}
