/**
 * The strip of rendered γ in a node: one large picture, a slider that shows the nearest rendered γ, a wipe against a
 * pinned one, and the strip itself. Pictures and numbers come from Python (nodes/retiming/explorer.py).
 */
import { MARKUP } from "./explorer_parts.js";

const NUDGE = 0.05; // of the wipe, by key

/** `element` carries what it shows: data-state is empty, running or done; data-gamma the γ of the large picture. */
export class Explorer {
  static HEIGHT = 310;

  /** actions: {url(file), picked(cell), denser(gap), use(cell, event)} */
  constructor(actions) {
    this.actions = actions;
    this.element = document.createElement("div");
    this.element.className = "asyncdiff-explorer";
    this.element.style.minHeight = `${Explorer.HEIGHT}px`;
    this.element.innerHTML = MARKUP;
    this.document = null;
    this.at = null; // γ under the slider's thumb
    this.row = 0;
    this.picture = 0; // which one of a batch, or which frame
    this.pin = null; // {row, gamma}; null: γ = 0 of the row that is looked at
    this.listen();
    this.state("empty");
  }

  // --- what Python says ------------------------------------------------------------------------------------------

  /** A sweep begins, or one is shown that is over: the document of `Explorer.document` in Python. */
  begin(doc, state) {
    const same = doc.columns.some(({ gamma }) => gamma === this.at);
    this.document = doc;
    if (!same) this.at = doc.start;
    this.row = Math.min(this.row, doc.rows.length - 1);
    this.picture = Math.min(this.picture, Math.max(0, doc.pictures.length - 1));
    this.build();
    this.state(state);
  }

  /** One more run is there. */
  add(cell, pictures) {
    if (!this.document) return; // the page was opened in the middle of a sweep
    this.document.cells.push(cell);
    this.document.pictures = pictures;
    this.draw();
  }

  state(name) {
    this.element.dataset.state = name;
    this.part("denser").classList.remove("waits");
    this.draw();
  }

  // --- what the person does ----------------------------------------------------------------------------------------

  listen() {
    const on = (name, event, act) => this.part(name).addEventListener(event, act);
    on("scrub", "input", () => this.go(Number(this.part("scrub").value)));
    on("strip", "click", ({ target }) => {
      const { row, column } = target.closest("button")?.dataset ?? {};
      if (column !== undefined) this.go(this.document.columns[column].gamma, Number(row));
    });
    on("wipe", "click", () => this.toggle("wipe"));
    on("pin", "click", () => this.togglePin());
    on("next", "click", () => this.turn());
    on("denser", "click", () => this.gap() && this.actions.denser(this.gap()));
    on("use", "click", (event) => this.shown() && this.actions.use(this.shown(), event));
    on("frame", "pointerdown", (event) => this.drag(event));
    on("frame", "pointermove", (event) => event.buttons & 1 && this.drag(event));
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  /** Look at γ, in the same row or another. */
  go(gamma, row = this.row) {
    this.at = gamma;
    this.row = row;
    this.draw();
    const cell = this.shown();
    if (cell) this.actions.picked(cell);
  }

  /** Arrows go from one rendered γ to the next, and from row to row; Home and End to the ends. */
  key(event) {
    const { document: doc } = this;
    const wiping = event.target === this.part("handle");
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!doc || (side === undefined && !["Home", "End", "ArrowUp", "ArrowDown"].includes(event.key))) return;
    event.preventDefault();
    event.stopPropagation();
    const known = this.known();
    if (wiping) this.wipeTo(event.key === "Home" ? 0 : event.key === "End" ? 1 : this.wiped() + (side ?? 0) * NUDGE);
    else if (event.key === "Home") this.go(known[0]);
    else if (event.key === "End") this.go(known.at(-1));
    else if (side) this.go(this.neighbour(known, side));
    else this.go(this.at, clamp(this.row + (event.key === "ArrowUp" ? -1 : 1), 0, doc.rows.length - 1));
  }

  neighbour(known, side) {
    const here = known.indexOf(this.shownGamma());
    return known[clamp(here + side, 0, known.length - 1)];
  }

  toggle(name) {
    this.element.dataset[name] = this.element.dataset[name] === "on" ? "off" : "on";
    this.draw();
  }

  togglePin() {
    const gamma = this.shownGamma();
    this.pin = this.isPinned(this.row, gamma) ? null : { row: this.row, gamma };
    this.draw();
  }

  turn() {
    this.picture = (this.picture + 1) % Math.max(1, this.document?.pictures.length ?? 1);
    this.draw();
  }

  drag(event) {
    if (this.element.dataset.wipe !== "on") return;
    event.preventDefault(); // the arrow keys stay with the slider
    this.part("scrub").focus({ preventScroll: true });
    this.part("frame").setPointerCapture?.(event.pointerId);
    const { left, width } = this.part("frame").getBoundingClientRect();
    this.wipeTo((event.clientX - left) / width);
  }

  wipeTo(share) {
    this.part("frame").style.setProperty("--wipe", clamp(share, 0, 1).toFixed(4));
    this.part("handle").setAttribute("aria-valuenow", Math.round(this.wiped() * 100));
  }

  wiped() {
    return Number(this.part("frame").style.getPropertyValue("--wipe") || 0.5);
  }

  // --- what is looked at --------------------------------------------------------------------------------------------

  /** The rendered γ of this row, rising. */
  known(row = this.row) {
    const cells = this.document?.cells.filter((cell) => cell.row === row) ?? [];
    return cells.map((cell) => this.document.columns[cell.column].gamma).sort((a, b) => a - b);
  }

  /** The rendered γ that is nearest to the thumb. */
  shownGamma() {
    return this.known().reduce((best, gamma) => (Math.abs(gamma - this.at) < Math.abs(best - this.at) ? gamma : best), Infinity);
  }

  shown() {
    return this.cell(this.row, this.shownGamma());
  }

  pinned() {
    return this.pin ? this.cell(this.pin.row, this.pin.gamma) : this.cell(this.row, this.document?.synchronous);
  }

  isPinned(row, gamma) {
    return this.pin?.row === row && this.pin?.gamma === gamma;
  }

  cell(row, gamma) {
    return this.document?.cells.find((cell) => cell.row === row && this.document.columns[cell.column].gamma === gamma);
  }

  /** The gap that the thumb is in; on a rendered γ the one to its right, on the last one the one to its left. */
  gap() {
    const gaps = this.document?.gaps ?? [];
    return gaps.find(({ low, high }) => low <= this.at && this.at < high) ?? gaps.at(-1);
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  /** The places of the strip and the ticks of the slider. */
  build() {
    const { rows, columns } = this.document;
    const strip = this.part("strip");
    strip.style.setProperty("--columns", columns.length);
    strip.dataset.rows = rows.length > 1 ? "several" : "one";
    strip.replaceChildren(...rows.flatMap((row, place) => [
      ...(rows.length > 1 ? [labelled("span", row.label)] : []),
      ...columns.map((column, number) => thumb(place, number, column)),
    ]));
    const [low, high] = [columns[0].gamma, columns.at(-1).gamma];
    const scrub = this.part("scrub");
    Object.assign(scrub, { min: low, max: high, step: "any", disabled: columns.length < 2 });
    this.part("ticks").replaceChildren(...columns.map(({ gamma }) => tick(high > low ? (gamma - low) / (high - low) : 0.5)));
  }

  draw() {
    const { document: doc } = this;
    const cell = this.shown();
    this.element.dataset.gamma = cell ? this.shownGamma() : "";
    this.element.dataset.row = this.row;
    if (!doc) return;
    for (const button of this.part("strip").querySelectorAll("button")) this.drawThumb(button);
    const scrub = this.part("scrub");
    scrub.value = this.at;
    scrub.setAttribute("aria-valuetext", cell ? this.title(cell) : "");
    this.drawLarge(cell);
    this.drawButtons(cell);
  }

  drawThumb(button) {
    const { row, column } = button.dataset;
    const { gamma } = this.document.columns[column];
    const cell = this.cell(Number(row), gamma);
    setSource(button.querySelector("img"), this.url(cell));
    button.classList.toggle("there", Boolean(cell));
    button.setAttribute("aria-pressed", cell !== undefined && cell === this.shown());
    button.classList.toggle("pinned", cell !== undefined && cell === this.pinned());
  }

  drawLarge(cell) {
    const reference = this.pinned();
    setSource(this.part("picture"), this.url(cell));
    setSource(this.part("reference"), this.url(reference));
    this.text("right", cell ? [this.title(cell), cell.note].filter(Boolean).join(" · ") : "");
    this.text("left", reference ? this.title(reference) : "");
    this.text("readout", cell && this.at !== this.shownGamma() ? this.apart(cell) : "");
    this.wipeTo(this.wiped());
  }

  /** What is said where the thumb is not on a rendered γ. */
  apart(cell) {
    const { columns } = this.document;
    const coming = columns.find(({ gamma }) => gamma === this.at);
    const nearest = columns[cell.column].label;
    return coming ? `${coming.label} is on its way; this is ${nearest}` : `at ${this.at.toFixed(2)} the nearest rendered is ${nearest}`;
  }

  drawButtons(cell) {
    const { pictures } = this.document;
    const gap = this.gap();
    this.part("wipe").setAttribute("aria-pressed", this.element.dataset.wipe === "on");
    this.part("pin").setAttribute("aria-pressed", this.isPinned(this.row, this.shownGamma()));
    this.text("next", pictures[this.picture] ?? "");
    this.part("next").hidden = pictures.length < 2;
    this.text("denser", gap ? `denser here: ${gap.gamma}` : "denser here");
    this.part("denser").disabled = !gap;
    this.text("use", cell ? `use ${Number(this.document.columns[cell.column].gamma.toPrecision(6))} ▾` : "use ▾");
    this.part("use").disabled = !cell;
  }

  title(cell) {
    return [this.document.columns[cell.column].label, this.document.rows[cell.row].label].filter(Boolean).join(" · ");
  }

  url(cell) {
    const file = cell?.files[this.picture];
    return file ? this.actions.url(file) : "";
  }

  part(name) {
    return this.element.querySelector(`.${name}`);
  }

  text(name, text) {
    this.part(name).textContent = text;
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function setSource(image, url) {
  if (image.dataset.url === url) return;
  image.dataset.url = url;
  image.hidden = !url;
  if (url) image.src = url;
}

function labelled(kind, text) {
  const element = document.createElement(kind);
  element.textContent = text;
  return element;
}

function thumb(row, column, { label, gamma }) {
  const button = labelled("button", "");
  Object.assign(button, { type: "button", className: "thumb", title: label });
  Object.assign(button.dataset, { row, column });
  const image = document.createElement("img");
  Object.assign(image, { alt: label, draggable: false, hidden: true });
  button.append(image, labelled("b", String(Number(gamma.toPrecision(6)))));
  return button;
}

function tick(share) {
  const mark = document.createElement("i");
  mark.style.left = `${share * 100}%`;
  return mark;
}
