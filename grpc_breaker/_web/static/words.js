// Words and numbers as the page shows them, and elements made from text alone: nothing that a process says is ever HTML.

export const STATES = {
  open: { word: "open", shape: "✕", rank: 6 },
  forced_open: { word: "forced open", shape: "⊘", rank: 5 },
  half_open: { word: "half-open", shape: "◐", rank: 4 },
  unknown: { word: "not known", shape: "?", rank: 3 },
  disabled: { word: "disabled", shape: "○", rank: 2 },
  closed: { word: "closed", shape: "●", rank: 0 },
};

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

export function badge(state) {
  const { word, shape } = STATES[state];
  return element("span", { class: `badge ${state}` }, element("span", { class: "shape", "aria-hidden": "true" }, shape), word);
}

export function number(value) {
  if (value === 0) return "0";
  if (value < 0.1) return "<0.1";
  return value < 9.95 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(minutes / 1440)} days`;
}

export const clockTime = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

export const count = (amount, thing, things = `${thing}s`) => `${amount} ${amount === 1 ? thing : things}`;

// A hold, with its reason last: that is what may be too long for a row.
export function holdText(hold, now) {
  const left = hold.until === null ? "until it is reset" : `${duration(hold.until - now)} left`;
  return `held, ${left}: ${hold.reason || "no reason given"}`;
}

export function failureText([status, details]) {
  return details ? `${status}: ${details}` : status;
}

export function processName(process) {
  return process.program ? `${process.program} ${process.pid} on ${process.host}` : process.target;
}
