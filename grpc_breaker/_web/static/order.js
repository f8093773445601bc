// The dialog in which an operator orders a hold or a reset, and reads what each process said to it.

import { count, element, processName } from "./words.js";

const ORDERS = {
  "force-open": ["Force open", "Refuses every call to it, for a time. Then it closes."],
  disable: ["Disable", "Lets every call pass, counted, for a time; nothing opens it. Then it closes."],
  reset: ["Reset", "Closes it, ends a hold on it, and forgets what it counted."],
};
const byId = (id) => document.getElementById(id);

export class OrderDialog {
  constructor({ ask, processes, onDone }) {
    Object.assign(this, { ask, processes, onDone });
    this.dialog = byId("order");
    byId("order-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.give();
    });
    byId("order-cancel").addEventListener("click", () => this.dialog.close());
    byId("order-minutes").addEventListener("focus", () => { this.times().value = "own"; });
    this.dialog.addEventListener("close", () => {
      if (this.before && this.before.isConnected) this.before.focus({ preventScroll: true });
      this.onDone();
    });
  }

  times() {
    return byId("order-form").elements.time;
  }

  open(what, row) {
    if (this.dialog.open) return;
    const [words, meaning] = ORDERS[what];
    Object.assign(this, { what, name: row.name, done: false, before: document.activeElement });
    byId("order-title").textContent = `${words} ${row.name}`;
    byId("order-what").textContent = `${meaning} In ${count(row.processes + row.lost, "process", "processes")}.`;
    byId("order-fields").hidden = what === "reset";
    byId("order-reason").required = what !== "reset";
    byId("order-do").textContent = words;
    byId("order-do").disabled = false;
    byId("order-cancel").textContent = "Cancel";
    byId("order-error").textContent = "";
    byId("order-answers").replaceChildren();
    this.dialog.showModal();
    byId(what === "reset" ? "order-do" : "order-reason").focus();
  }

  async give() {
    if (this.done) {
      this.dialog.close();
      return;
    }
    const body = { name: this.name };
    if (this.what !== "reset") {
      const time = this.times().value;
      body.ttl = time === "own" ? 60 * Number(byId("order-minutes").value) : Number(time);
      body.reason = byId("order-reason").value.trim();
    }
    byId("order-do").disabled = true;
    byId("order-error").textContent = "";
    byId("order-answers").replaceChildren();
    try {
      this.show(await this.ask(`/${this.what}`, body));
    } catch (error) {
      byId("order-error").textContent = error.message;
    }
    byId("order-do").disabled = false;
    byId("order-do").focus();
  }

  show(answers) {
    const refused = answers.filter((it) => it.error);
    if (refused.length) byId("order-error").textContent = `${refused.length} of ${count(answers.length, "process", "processes")} refused`;
    byId("order-answers").replaceChildren(...[...refused, ...answers.filter((it) => !it.error)].map((it) => {
      const process = this.processes.get(it.process);
      const name = process ? processName(process) : "a process that is gone";
      const others = it.breakers.filter((breaker) => breaker !== this.name);
      return element("li", {}, it.error ? `✕ ${name}: ${it.error}` : `✓ ${name}: done${others.length ? `, and ${others.join(", ")}` : ""}`);
    }));
    if (refused.length < answers.length) {
      this.done = true;
      byId("order-do").textContent = "Close";
      byId("order-cancel").textContent = "Back";
    }
  }
}
