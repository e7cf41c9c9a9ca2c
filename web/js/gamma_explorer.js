/** The strip of γ on γ Sweep: messages from Python to it, and from its buttons to the graph. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { Explorer } from "./explorer.js";
import { origin } from "./foresee.js";
import { allNodes, chain, executionIdOf, nodeOf } from "./graph.js";

const EVENT = "asyncdiff.explorer";
const KEY = "asyncdiff_explorer"; // among what the node shows, see nodes/retiming/explorer.py
const WIDGET = "explorer";
const ENDINGS = ["execution_error", "execution_interrupted"];
const MOST_KEPT = 20;
const LEFT = 1; // of a pointer's buttons
const PAN = 4;

const explorers = new Map(); // node → its Explorer
const seen = new Map(); // graph and node → its latest document, for a graph that is loaded again (undo, another tab)

/** Give a node its strip; `chart` then shows t* of the γ that is looked at. */
export function addExplorer(node, chart) {
  const explorer = new Explorer({
    url: (file) => api.apiURL(`/view?${new URLSearchParams(file)}`),
    picked: (cell) => cell.curve && chart.recall(cell.curve),
    denser: (gap) => densify(node, explorer, gap),
    use: (cell, event) => chooseTarget(node, explorer, cell, event),
  });
  keepApart(explorer.element);
  const widget = node.addDOMWidget(WIDGET, "asyncdiff_explorer", explorer.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => Explorer.HEIGHT + 2 * (widget?.margin ?? 10),
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  chain(node, "onExecuted", (output) => output?.[KEY] && finish(node, output[KEY][0]));
  chain(node, "onAdded", () => {
    explorers.set(node, explorer);
    setTimeout(() => restore(node, explorer));
  });
  chain(node, "onRemoved", () => explorers.delete(node));
}

/** Strokes on the strip are its own; the wheel and the middle button still move the canvas. */
function keepApart(element) {
  const toCanvas = (name) => (event) => {
    if (event.buttons & PAN || event.button === 1) app.canvas[name]?.(event);
    else if (event.buttons & LEFT || event.type !== "pointermove") event.stopPropagation();
  };
  element.addEventListener("pointerdown", toCanvas("processMouseDown"));
  element.addEventListener("pointermove", toCanvas("processMouseMove"));
  element.addEventListener("pointerup", toCanvas("processMouseUp"));
  element.addEventListener("wheel", (event) => {
    if (!globalThis.LiteGraph?.vueNodesMode) app.canvas.processMouseWheel(event);
  });
}

// --- messages ---------------------------------------------------------------------------------------------------------

function listen({ node: id, event, ...message }) {
  const node = nodeOf(id);
  const explorer = explorers.get(node);
  if (!explorer) return;
  if (event === "cell") explorer.add(message.cell, message.pictures);
  else explorer.begin(message, "running");
  remember(node, explorer.document);
}

function finish(node, doc) {
  const explorer = explorers.get(node);
  if (!explorer) return;
  explorer.begin(doc, "done");
  explorer.go(explorer.at); // the chart follows
  remember(node, doc);
}

function remember(node, doc) {
  const key = `${node.graph?.id}:${node.id}`;
  seen.delete(key);
  if (doc) seen.set(key, doc);
  if (seen.size > MOST_KEPT) seen.delete(seen.keys().next().value);
}

function restore(node, explorer) {
  const doc = seen.get(`${node.graph?.id}:${node.id}`);
  if (doc && !explorer.document) explorer.begin(doc, "done");
}

// --- buttons ----------------------------------------------------------------------------------------------------------

/** Add the γ of a gap to the list, hold the seed, and run this node. */
async function densify(node, explorer, { low, gamma }) {
  const list = node.widgets.find((widget) => widget.name === "gammas");
  if (isLinked(node, "gammas")) return say("The list of strengths (γ) comes from another node; add the value there.");
  const parts = String(list.value).split(/[,;\n]/).map((part) => part.trim()).filter(Boolean);
  if (!parts.some((part) => Number(part) === gamma)) {
    const place = parts.findIndex((part) => Number(part) === low);
    parts.splice(place < 0 ? parts.length : place + 1, 0, String(gamma));
    edit(node, () => {
      write(node, list, parts.join(", "));
      holdSeed(node, explorer.document.seed, explorer.document.widget);
    });
  }
  explorer.at = gamma;
  explorer.part("denser").classList.add("waits");
  const target = executionIdOf(node);
  await app.queuePrompt(0, 1, target ? [target] : undefined);
}

/** The seed of what is shown, and no other after the run. */
function holdSeed(node, seed, secondAxis) {
  const outer = isLinked(node, "seed") ? origin(node, "seed").outer : null; // the subgraph's own widget in its place
  if (isLinked(node, "seed") && !outer) return;
  if (secondAxis !== "seed") write(outer?.node ?? node, outer ?? widgetOf(node, "seed"), seed);
  for (const place of [node, outer?.node]) {
    const control = place && widgetOf(place, "control_after_generate");
    if (control) write(place, control, "fixed");
  }
}

/** A menu of the nodes that can take this γ. */
function chooseTarget(node, explorer, cell, event) {
  const { gamma } = explorer.document.columns[cell.column];
  const second = { name: explorer.document.widget, value: explorer.document.rows[cell.row].value };
  const targets = allNodes().filter((other) => other !== node && widgetOf(other, "gamma") && !isLinked(other, "gamma"));
  if (!targets.length) return say("No node of this graph has a deviation strength (γ) of its own; add Asynchronous KSampler or Deviation Scale.");
  const entries = targets.map((target) => entry(target, gamma, second));
  new LiteGraph.ContextMenu(entries, { event, title: `Strength γ = ${gamma} for`, className: "dark" });
}

function entry(target, gamma, second) {
  const widget = widgetOf(target, "gamma");
  const { min = -Infinity, max = Infinity } = widget.options ?? {};
  const takes = min <= gamma && gamma <= max;
  const name = `${target.title} #${target.id}`;
  return {
    content: takes ? name : `${name} (takes ${min} … ${max})`,
    disabled: !takes,
    callback: () => edit(target, () => {
      write(target, widget, gamma);
      const other = second.name && !isLinked(target, second.name) ? widgetOf(target, second.name) : null;
      if (other) write(target, other, second.value);
      say(`Strength γ = ${gamma} is written into ${target.title}.`, "success");
    }),
  };
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

const isLinked = (node, name) => node.inputs?.find((input) => input.widget?.name === name)?.link != null;

function write(node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

/** One step of undo. */
function edit(node, change) {
  node.graph?.beforeChange?.();
  change();
  node.graph?.afterChange?.();
  app.graph?.setDirtyCanvas?.(true, true);
}

function say(detail, severity = "info") {
  app.extensionManager?.toast?.add?.({ severity, summary: "γ Sweep", detail, life: 4000 });
}

app.registerExtension({
  name: "asyncdiff.GammaExplorer",

  setup() {
    api.addEventListener(EVENT, ({ detail }) => listen(detail));
    for (const name of ENDINGS) {
      api.addEventListener(name, () => explorers.forEach((explorer) => explorer.document && explorer.state("done")));
    }
  },
});
