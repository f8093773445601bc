// The strip of the last minutes: its cells as the server counts them, and how they are drawn.
//
// States differ in shape as well as in colour: closed is a thin line with bars for failed calls, half-open is half as
// high, open is full, forced open is striped, disabled is hollow, and nothing is drawn where nothing was known.

const LETTERS = { closed: "c", disabled: "d", half_open: "h", forced_open: "f", open: "o", unknown: "-" };
const WORDS = { o: "open", f: "forced open", h: "half-open", d: "disabled", c: "closed" };
const HUES = { o: "--open", f: "--forced", h: "--half", d: "--disabled", c: "--calm", "-": "--faint", bar: "--bar" };
const WIDTH = 240;
const HEIGHT = 26;
let colours = null;

export function forgetColours() {
  colours = null;
}

export class Strip {
  // Text has two characters for each cell, a letter and a digit; `cell` is the number of the last one.
  constructor(text, cell) {
    this.letters = [...text].filter((_, index) => index % 2 === 0);
    this.failures = [...text].filter((_, index) => index % 2 === 1).map(Number);
    this.cell = cell;
  }

  // Go on to a cell in the state of a row. What came before the last two cells, which are in `recent`, had no failures.
  moveOn(cell, state) {
    if (this.cell > cell + 1) this.cell = cell; // the clock was set back
    for (; this.cell < cell; this.cell += 1) {
      this.letters.push(LETTERS[state]);
      this.failures.push(0);
      this.letters.shift();
      this.failures.shift();
    }
  }

  take(recent, cell) {
    const last = this.letters.length - 1 - (this.cell - cell); // our clock may be ahead by a cell
    [this.letters[last - 1], this.letters[last]] = [recent[0], recent[2]];
    [this.failures[last - 1], this.failures[last]] = [Number(recent[1]), Number(recent[3])];
  }

  label(seconds) {
    const times = Object.entries(WORDS).map(([letter, word]) => [word, this.letters.filter((it) => it === letter).length]);
    const told = times.filter(([, cells]) => cells > 0).map(([word, cells]) => `${word} ${Math.round(cells * seconds / 6) / 10} min`);
    const failed = this.failures.filter((it) => it > 0).length;
    return [...told, failed ? `failures in ${failed} of ${this.failures.length} intervals` : "no failures"].join(", ");
  }

  draw(canvas) {
    const scale = Math.min(3, window.devicePixelRatio || 1);
    if (canvas.width !== WIDTH * scale) [canvas.width, canvas.height] = [WIDTH * scale, HEIGHT * scale];
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    if (colours === null) {
      const style = getComputedStyle(document.documentElement);
      colours = Object.fromEntries(Object.entries(HUES).map(([key, name]) => [key, style.getPropertyValue(name).trim()]));
    }
    const wide = WIDTH / this.letters.length;
    this.letters.forEach((letter, index) => drawCell(pen, letter, this.failures[index], index * wide, wide));
  }
}

function drawCell(pen, letter, failures, left, wide) {
  pen.fillStyle = colours[letter];
  if (letter === "o") pen.fillRect(left, 0, wide, HEIGHT);
  else if (letter === "h") pen.fillRect(left, HEIGHT / 2, wide, HEIGHT / 2);
  else if (letter === "f") {
    for (let y = left % 6; y < HEIGHT; y += 6) pen.fillRect(left, y, wide, 3);
  } else if (letter === "d") {
    pen.fillRect(left, 0, wide, 1);
    pen.fillRect(left, HEIGHT - 1, wide, 1);
  } else if (letter === "c") pen.fillRect(left, HEIGHT - 2, wide, 2);
  else if (Math.round(left / wide) % 4 === 0) pen.fillRect(left, HEIGHT - 2, wide / 2, 2);
  if (failures && letter !== "o") {
    const high = 3 + (failures / 9) * (HEIGHT - 6);
    pen.fillStyle = colours.bar;
    pen.fillRect(left, HEIGHT - high, wide, high);
  }
}
