/** What decides the curve of a node, read from the graph, and the server's answer to it. */
import { api } from "../../../scripts/api.js";
import { placesOf } from "./graph.js";

const PLAN = "/asyncdiff/plan";
const DECISIVE = [
  ...["gamma", "gammas", "bound", "tail_sync", "velocity_coupling", "steps", "denoise", "scheduler"],
  ...["start_at_step", "end_at_step", "return_with_leftover_noise", "stay_in_part", "sampler_name"],
];
const MUTED = 2;
const BYPASSED = 4;
const LONGEST_CHAIN = 50; // reroutes and borders of subgraphs in a row
const BORDER = -10; // the origin of a link that comes from outside of a subgraph

/** The document for POST /asyncdiff/plan, or {reason} where the graph itself says that nothing can be foreseen. */
export function question(node) {
  const { node: policy, shared } = origin(node, "policy");
  if (shared) return { reason: "This subgraph is used more than once: the curve appears during the run." };
  const sampler = readWidgets(node, (name) => DECISIVE.includes(name));
  const maker = policy ? described(policy) : {};
  if (!sampler || !maker) return { reason: "A linked value decides: the curve appears during the run." };
  const loader = loaderOf(node);
  return {
    sampler,
    ...(policy && { policy: maker }),
    ...(loader && { model: loader }),
  };
}

/** {type, widgets} of a node, or null where one of them is linked to something that only a run can tell. */
function described(node) {
  const widgets = readWidgets(node, () => true);
  return widgets && { type: node.comfyClass ?? node.type, widgets };
}

const texts = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => typeof value === "string"));

/** What loads the model of a node, {type, widgets}, seen through everything that changes a MODEL; null if unknown. */
function loaderOf(node) {
  let input = "model";
  for (let hops = 0; hops < LONGEST_CHAIN; hops++) {
    const { node: giver } = origin(node, input);
    if (!giver) return null;
    const before = giver.inputs?.find(({ type }) => type === "MODEL");
    if (!before) return { type: giver.comfyClass ?? giver.type, widgets: texts(readWidgets(giver, () => true) ?? {}) };
    [node, input] = [giver, before.name];
  }
  return null;
}

/** {sigmas, t_star, deviation, proposed} or {reason}; never an exception. */
export async function foresee(asked) {
  if (asked.reason !== undefined) return asked;
  try {
    const response = await api.fetchApi(PLAN, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    return response.ok ? await response.json() : { reason: "" };
  } catch {
    return { reason: "" };
  }
}

/** Values of the node's own widgets by name; null if one of them is linked to something that only a run can tell. */
function readWidgets(node, wanted) {
  const values = {};
  for (const widget of node.widgets ?? []) {
    if (!wanted(widget.name) || widget.serialize === false || widget.options?.serialize === false) continue;
    const value = valueOf(node, widget);
    if (value === undefined) return null;
    values[widget.name] = value;
  }
  return values;
}

function valueOf(node, widget) {
  const slot = node.inputs?.find((input) => input.widget?.name === widget.name);
  if (slot?.link == null) return widget.value;
  const { node: source, outer } = origin(node, slot.name);
  if (outer) return outer.value; // the subgraph's own widget in its place
  const giver = source && (source.comfyClass ?? source.type);
  return /^Primitive|^AsyncDiffDeviationScale$/.test(giver ?? "") ? source.widgets?.[0]?.value : undefined;
}

/**
 * What an input gets, seen through reroutes, bypassed nodes and the borders of subgraphs: {node}, or {outer},
 * a widget of the subgraph that the node is in. {} where nothing comes in, {shared} where several places differ.
 */
export function origin(node, name) {
  let graph = node.graph;
  let link = linkOf(graph, node.inputs?.find((input) => input.name === name));
  const entered = []; // nodes whose subgraph the way leads into
  for (let hops = 0; link && hops < LONGEST_CHAIN; hops++) {
    if (Number(link.origin_id) === BORDER) {
      const places = entered.length ? [entered.pop()] : placesOf(graph);
      if (places.length > 1) return { shared: true };
      const slot = places[0]?.inputs?.find((input) => input.name === graph.inputs?.[link.origin_slot]?.name);
      if (!slot) return {};
      graph = places[0].graph;
      link = linkOf(graph, slot);
      const outer = link ? null : (slot._widget ?? places[0].widgets?.find((widget) => widget.name === slot.widget?.name));
      if (outer) return { outer };
      continue;
    }
    const giver = graph.getNodeById(link.origin_id);
    if (!giver || giver.mode === MUTED) return {};
    if (giver.mode !== BYPASSED && giver.subgraph) {
      entered.push(giver);
      graph = giver.subgraph;
      link = graph.getLink(graph.outputs?.[link.origin_slot]?.linkIds?.[0]);
    } else if (giver.type === "Reroute" || giver.mode === BYPASSED) {
      link = linkOf(graph, passedOn(giver, link));
    } else return { node: giver };
  }
  return {};
}

/** The input whose link a reroute or a bypassed node hands on at an output. */
function passedOn(node, { origin_slot: slot }) {
  const inputs = node.inputs ?? [];
  if (node.type === "Reroute" || inputs.length === 1) return inputs[0];
  const kind = node.outputs?.[slot]?.type;
  return inputs[slot]?.type === kind ? inputs[slot] : inputs.find(({ type }) => type === kind);
}

function linkOf(graph, slot) {
  return slot?.link == null ? null : graph.getLink(slot.link);
}
