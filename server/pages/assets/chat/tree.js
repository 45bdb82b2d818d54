// A conversation is a tree: an edited question or another answer is a branch, and nothing is lost.
//
// A conversation: {id, title, createdMs, updatedMs, system, nodes: {id: node}, rootIds: [id], leafId}. A node:
// {id, parentId, childIds, role, content, ...what its role has}. The path from a root to the leaf is what is shown and
// sent. The leaf has no children.

import { newId } from "../shared/dom.js";

export function newConversation() {
  const now = Date.now();
  return {
    id: newId(), title: "", createdMs: now, updatedMs: now, system: "", schema: "", tools: "", nodes: {}, rootIds: [],
    leafId: null,
  };
}

let lastMs = 0; // so that of two nodes in a millisecond the second is the later one

/** Add a node under `parentId` (null: at the root), and make it the leaf. */
export function addNode(conversation, parentId, fields) {
  lastMs = Math.max(Date.now(), lastMs + 1);
  const node = { id: newId(), parentId, childIds: [], createdMs: lastMs, ...fields };
  link(conversation, node);
  conversation.leafId = node.id;
  conversation.updatedMs = node.createdMs;
  return node;
}

/** Put a node in its place: among its versions by age, and above the nodes that name it as their parent. */
export function link(conversation, node) {
  const { nodes, rootIds } = conversation;
  node.childIds = rootIds.filter((id) => nodes[id].parentId === node.id);
  conversation.rootIds = rootIds.filter((id) => nodes[id].parentId !== node.id);
  nodes[node.id] = node;
  const ids = siblingIds(conversation, node);
  const later = ids.findIndex((id) => isBefore(node, nodes[id]));
  ids.splice(later < 0 ? ids.length : later, 0, node.id);
}

const isBefore = (a, b) => a.createdMs < b.createdMs || (a.createdMs === b.createdMs && a.id < b.id);

/** Take one node out; the nodes below it become first ones. */
export function unlink(conversation, id) {
  const node = conversation.nodes[id];
  const ids = siblingIds(conversation, node);
  ids.splice(ids.indexOf(id), 1);
  delete conversation.nodes[id];
  conversation.rootIds.push(...node.childIds);
}

/** The nodes from the root to the leaf. */
export function path(conversation, leafId = conversation.leafId) {
  const nodes = [];
  for (let node = conversation.nodes[leafId]; node; node = conversation.nodes[node.parentId]) nodes.push(node);
  return nodes.reverse();
}

/** The nodes that are shown: the path, at whose end two answers may stand side by side. */
export function shownNodes(conversation) {
  const nodes = path(conversation);
  return nodes.length > 0 ? [...nodes.slice(0, -1), ...(pairOf(conversation) ?? [nodes.at(-1)])] : nodes;
}

/** The two answers that stand side by side at the end of the path, or null. */
export function pairOf({ pair, leafId, nodes }) {
  if (!pair?.includes(leafId)) return null;
  const both = pair.map((id) => nodes[id]);
  return both.every(Boolean) && both[0].parentId === both[1].parentId ? both : null;
}

/** The ids of a node's versions, itself among them, in the order in which they were made. */
export function siblingIds(conversation, node) {
  return conversation.nodes[node.parentId]?.childIds ?? conversation.rootIds;
}

/** A node and all nodes below it, each after its parent. */
export function nodesFrom(conversation, id) {
  const nodes = [conversation.nodes[id]];
  for (const node of nodes) nodes.push(...node.childIds.map((childId) => conversation.nodes[childId]));
  return nodes;
}

/** Show another version of a node, down to the newest end below it. */
export function showVersion(conversation, id) {
  let node = conversation.nodes[id];
  while (node.childIds.length > 0) node = conversation.nodes[node.childIds.at(-1)];
  conversation.leafId = node.id;
}

/**
 * Remove a node and all below it, and return them. The newest of its versions is shown then, or without one its parent,
 * if it was shown itself.
 */
export function removeNode(conversation, id) {
  const removed = nodesFrom(conversation, id);
  const wasShown = path(conversation).some((node) => node.id === id);
  const ids = siblingIds(conversation, removed[0]);
  for (const node of [...removed].reverse()) unlink(conversation, node.id);
  if (wasShown) conversation.leafId = ids.at(-1) ?? removed[0].parentId;
  moveToEnd(conversation);
  return removed;
}

/** Make the newest node below the leaf the leaf, or below the first ones if it is not there. */
export function moveToEnd(conversation) {
  const id = conversation.nodes[conversation.leafId] ? conversation.leafId : conversation.rootIds.at(-1);
  if (id === undefined) conversation.leafId = null;
  else showVersion(conversation, id);
}

/** What a list shows a conversation as. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.nodes[conversation.rootIds[0]];
  const line = first?.content.trim().split("\n")[0] || first?.attachments?.[0]?.name || "";
  return line ? line.slice(0, 80) : "New chat";
}
