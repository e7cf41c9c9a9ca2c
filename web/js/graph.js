/** Finding nodes in a graph and its subgraphs. */
import { app } from "../../../scripts/app.js";

/** The node of an execution id: "7", or "12:3" for node 3 in the subgraph that node 12 stands for. */
export function nodeOf(executionId) {
  const path = String(executionId).split(":");
  let graph = rootGraph();
  for (const step of path.slice(0, -1)) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(path.at(-1));
}

/** The execution id of a node; undefined where its subgraph is used more than once, or not at all. */
export function executionIdOf(node) {
  if (!node.graph || node.graph === rootGraph()) return String(node.id);
  const places = placesOf(node.graph);
  const outer = places.length === 1 ? executionIdOf(places[0]) : undefined;
  return outer && `${outer}:${node.id}`;
}

/** The nodes that stand for this subgraph, in whatever graph they are. */
export function placesOf(subgraph) {
  return allNodes(subgraph.rootGraph ?? subgraph).filter((node) => node.subgraph === subgraph);
}

/** All nodes, also those in subgraphs. */
export function allNodes(root = rootGraph()) {
  const graphs = [root, ...(root.subgraphs?.values() ?? [])];
  return graphs.flatMap((graph) => graph.nodes ?? []);
}

/** Call `after` whenever owner[name] was called. */
export function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function rootGraph() {
  return app.rootGraph ?? app.graph;
}
