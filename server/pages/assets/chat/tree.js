// A conversation is a tree: an edited question or another answer is a branch, and nothing is lost.
//
// A conversation: {id, title, createdMs, updatedMs, system, nodes: {id: node}, rootIds: [id], leafId}. A node:
// {id, parentId, childIds, role, content, ...what its role has}. The path from a root to the leaf is what is shown and
// sent.

import { newId } from "../shared/dom.js";

export function newConversation() {
  const now = Date.now();
  return {
    id: newId(), title: "", createdMs: now, updatedMs: now, system: "", schema: "", tools: "", nodes: {}, rootIds: [],
    leafId: null,
  };
}

/** Add a node under `parentId` (null: at the root), and make it the leaf. */
export function addNode(conversation, parentId, fields) {
  const node = { id: newId(), parentId, childIds: [], createdMs: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  siblingIds(conversation, node).push(node.id);
  conversation.leafId = node.id;
  conversation.updatedMs = node.createdMs;
  return node;
}

/** The nodes from the root to the leaf. */
export function path(conversation) {
  const nodes = [];
  for (let node = conversation.nodes[conversation.leafId]; node; node = conversation.nodes[node.parentId]) {
    nodes.push(node);
  }
  return nodes.reverse();
}

/** The ids of a node's versions, itself among them, in the order in which they were made. */
export function siblingIds(conversation, node) {
  return node.parentId === null ? conversation.rootIds : conversation.nodes[node.parentId].childIds;
}

/** Show another version of a node, down to the newest end below it. */
export function showVersion(conversation, id) {
  let node = conversation.nodes[id];
  while (node.childIds.length > 0) node = conversation.nodes[node.childIds.at(-1)];
  conversation.leafId = node.id;
}

/** Remove a node and all below it; the newest of its siblings, or its parent, is the end then. */
export function removeNode(conversation, id) {
  const node = conversation.nodes[id];
  const ids = siblingIds(conversation, node);
  ids.splice(ids.indexOf(id), 1);
  removeBelow(conversation, id);
  if (ids.length > 0) showVersion(conversation, ids.at(-1));
  else conversation.leafId = node.parentId;
}

function removeBelow(conversation, id) {
  for (const childId of conversation.nodes[id].childIds) removeBelow(conversation, childId);
  delete conversation.nodes[id];
}

/** Take answers that were arriving when the conversation was stored for stopped: nothing arrives any more. */
export function endAnswers(conversation) {
  for (const node of Object.values(conversation.nodes)) {
    if (!node.isRunning) continue;
    delete node.isRunning;
    node.finishReason = "stopped";
  }
}

/** What a list shows a conversation as. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.nodes[conversation.rootIds[0]];
  const line = first?.content.trim().split("\n")[0] ?? "";
  return line ? line.slice(0, 80) : "New chat";
}
