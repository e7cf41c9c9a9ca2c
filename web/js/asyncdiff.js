/**
 * Live view: the noise level (σ) and the timestep that the model is told (t*), on the nodes that sample asynchronously.
 *
 * Before a run the chart shows the curve that a fixed policy is going to follow; during one, each step as it is
 * decided. Every number comes from Python (nodes/retiming/live_plan.py and live.py).
 */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { foresee, question } from "./foresee.js";
import { addExplorer } from "./gamma_explorer.js";
import { chain, nodeOf } from "./graph.js";
import { LiveChart } from "./live_chart.js";

const WITH_CHART = new Set(["AsyncDiffKSampler", "AsyncDiffKSamplerAdvanced", "AsyncDiffApply", "AsyncDiffGammaSweep"]);
const EXPLORED = "AsyncDiffGammaSweep";
const OURS = /^AsyncDiff/;
const WIDE = { AsyncDiffLoadTPM: 420 }; // nodes whose lists have long names, and their width when they are new
const LETTER = 8; // px of a title, about
const BESIDE_TITLE = 64; // px
const EVENT = "asyncdiff.live";
const WIDGET = "live view";
const PATIENCE = 150; // ms without a change before the server is asked

const charts = new Map(); // node in a graph → its LiveChart
let waiting = null;

/** Look at every chart again once the changes have come to rest. */
function reconsider() {
  clearTimeout(waiting);
  waiting = charts.size ? setTimeout(() => charts.forEach(refresh), PATIENCE) : null;
}

/** Ask for the foreseen curve if what it depends on is no longer what it was. */
async function refresh(chart, node) {
  const asked = question(node);
  if (!chart.asks(asked)) return;
  const { key, run } = chart;
  const answer = await foresee(asked);
  if (chart.key === key) chart.foreseen(answer, run); // else a newer question is under way
}

/** A message of nodes/retiming/live.py. */
function show(message) {
  const node = nodeOf(message.node);
  const chart = charts.get(node);
  if (!chart) return;
  const begins = message.event === "begin";
  if (begins && chart.asks(question(node))) chart.plan = null; // Run was pressed right after a change
  chart.live(message);
}

function addChart(node) {
  const chart = new LiveChart();
  const widget = node.addDOMWidget(WIDGET, "asyncdiff_chart", chart.element, {
    serialize: false, // not in the queued prompt
    hideOnZoom: false,
    getMinHeight: () => LiveChart.HEIGHT + 2 * (widget?.margin ?? 10),
    getMaxHeight: () => (node.comfyClass === EXPLORED ? LiveChart.HEIGHT + 2 * (widget?.margin ?? 10) : undefined),
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // nor in the saved workflow
  chain(node, "onAdded", () => {
    charts.set(node, chart);
    reconsider();
  });
  chain(node, "onRemoved", () => charts.delete(node));
  if (node.comfyClass === EXPLORED) addExplorer(node, chart);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
}

/** Old workflows name presets in older ways: show the name that the list has for them. */
function renameOldValues(node) {
  const inputs = node.constructor.nodeData?.input ?? {};
  for (const [name, [, options]] of Object.entries({ ...inputs.required, ...inputs.optional })) {
    const widget = options?.renamed && node.widgets?.find((widget) => widget.name === name);
    const value = widget && options.renamed[widget.value];
    if (value) widget.value = value;
  }
}

app.registerExtension({
  name: "asyncdiff.LiveView",

  setup() {
    api.addEventListener(EVENT, ({ detail }) => show(detail));
    api.addEventListener("graphChanged", reconsider); // links, reroutes, and other packs' nodes
  },

  nodeCreated(node) {
    if (!OURS.test(node.comfyClass)) return;
    for (const widget of node.widgets ?? []) chain(widget, "callback", reconsider);
    chain(node, "onConnectionsChange", reconsider);
    chain(node, "onConfigure", () => renameOldValues(node));
    const room = WIDE[node.comfyClass] ?? node.title.length * LETTER + BESIDE_TITLE;
    node.setSize([Math.max(room, node.size[0]), node.size[1]]);
    if (WITH_CHART.has(node.comfyClass)) addChart(node);
  },

  afterConfigureGraph: reconsider,
});
