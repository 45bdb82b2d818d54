// A conversation as records: its head (title, settings, the shown end), and one record for each message.
//
// Tabs of one browser add messages at the same time, so nothing is stored that two of them would write differently: a
// message names its parent, and the order of versions is that of their creation. Tests run it without a browser.

import { link, moveToEnd, unlink } from "../tree.js";

/** All of a conversation but its messages. */
export function headOf({ nodes, rootIds, ...head }) {
  return structuredClone(head);
}

/** A message as it is stored. What only the page that receives it needs is left out. */
export function recordOf(conversation, { childIds, progress, isReconnecting, ...fields }) {
  return structuredClone({ ...fields, conversationId: conversation.id });
}

export const recordsOf = (conversation) => Object.values(conversation.nodes).map((node) => recordOf(conversation, node));

/** The conversation of a head and its records. A message whose parent is not there is shown as a first one. */
export function conversationOf(head, records) {
  const conversation = { title: "", system: "", schema: "", tools: "", leafId: null, ...head, nodes: {}, rootIds: [] };
  addRecords(conversation, records);
  return conversation;
}

/**
 * Add what another tab has stored or sent. Returns the ids of the messages that are new or have changed. The shown end
 * moves on to messages below it, and stays otherwise.
 */
export function addRecords(conversation, records) {
  const changed = [];
  for (const record of [...records].sort(byCreation)) {
    const { conversationId, ...fields } = record;
    const node = conversation.nodes[record.id];
    if (node && isBehind(record, node)) continue;
    if (node) Object.assign(node, fields);
    else link(conversation, { ...fields, childIds: [] });
    changed.push(record.id);
  }
  moveToEnd(conversation);
  return changed;
}

/**
 * Those of `records` that another tab has stored as a change of this type and that were not deleted here meanwhile: only
 * "add" brings a conversation, and "answer" no message. `known`: the conversation here, or undefined.
 */
export function recordsToAdd({ type, records }, known) {
  if (type === "add") return records;
  if (!known) return [];
  return type === "answer" ? records.filter(({ id }) => known.nodes[id]) : records;
}

/** Remove messages by their ids; the shown end becomes the nearest message that is left. */
export function dropRecords(conversation, ids) {
  for (const id of ids) if (conversation.nodes[id]) unlink(conversation, id);
  moveToEnd(conversation);
}

/**
 * Whether `record` is an earlier state of the answer `known`. Several tabs may read one stream, and the one that is
 * behind must not undo what the other has stored.
 */
export function isBehind(record, known) {
  if (!record.isRunning || record.run?.id !== known.run?.id) return false;
  return !known.isRunning || (record.run?.numEvents ?? 0) < (known.run?.numEvents ?? 0);
}

/**
 * Give the messages of a conversation the order in which its lists have them, for it was stored in one piece: version 1
 * of the storage and exported files.
 */
export function orderByLists(conversation) {
  const lists = [conversation.rootIds, ...Object.values(conversation.nodes).map(({ childIds }) => childIds)];
  for (const list of lists) {
    let before = 0;
    for (const id of list) {
      const node = conversation.nodes[id];
      if (!node) continue;
      before = node.createdMs = Math.max(node.createdMs ?? conversation.createdMs, before + 1);
    }
  }
}

const byCreation = (a, b) => a.createdMs - b.createdMs || (a.id < b.id ? -1 : 1);
