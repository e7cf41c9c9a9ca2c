/** What decides the curve of a node, read from the graph, and the server's answer to it. */
import { api } from "../../../scripts/api.js";

const PLAN = "/asyncdiff/plan";
const DECISIVE = ["gamma", "gammas", "bound", "tail_sync", "velocity_coupling", "steps", "denoise", "scheduler"];
const MUTED = 2;
const BYPASSED = 4;
const LONGEST_CHAIN = 50; // reroutes in a row

/** The document for POST /asyncdiff/plan, or {reason} where the graph itself says that nothing can be foreseen. */
export function question(node) {
  const policy = origin(node, "policy");
  if (!policy) return { reason: "Connect a policy to see its curve." };
  const sampler = readWidgets(node, (name) => DECISIVE.includes(name));
  const widgets = readWidgets(policy, () => true);
  if (!sampler || !widgets) return { reason: "A linked value decides: the curve appears during the run." };
  return { sampler, policy: { type: policy.comfyClass ?? policy.type, widgets } };
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
  const source = origin(node, slot.name);
  const giver = source && (source.comfyClass ?? source.type);
  return /^Primitive|^AsyncDiffDeviationScale$/.test(giver ?? "") ? source.widgets?.[0]?.value : undefined;
}

/** The node behind an input, seen through reroutes and bypassed nodes of one input; null where nothing comes in. */
function origin(node, name) {
  let slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  for (let hops = 0; slot >= 0 && hops < LONGEST_CHAIN; hops++) {
    node = node.getInputNode?.(slot);
    if (!node || node.mode === MUTED) return null;
    if (node.type !== "Reroute" && node.mode !== BYPASSED) return node;
    slot = node.inputs?.length === 1 ? 0 : -1;
  }
  return null;
}
