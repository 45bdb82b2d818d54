// Stores what changes, tells it to the other tabs, and keeps what could not be stored until it can be.

import { isOpen, openDatabase, readAll, write } from "./database.js";
import { headOf, recordOf, recordsOf } from "./records.js";
import { tell } from "./tabs.js";

const RETRY_MS = 10_000;

let unsaved = []; // changes in their order, which this browser has refused so far
const writing = new Set(); // {change} of each that is being written, which the browser may still refuse
let problem = ""; // why not all is stored
let onState = () => {};

/**
 * Open what this browser stores. `onLoaded({heads, records})` is called once, when it is open, which may be late.
 * `showState(problem, numUnsaved)` is called with what is wrong: "none" (this browser stores nothing), "blocked" (by a tab
 * with an older page), "newer" (a newer page has opened the database), "full", "failed", or "".
 */
export async function openStorage(onLoaded, showState) {
  onState = showState;
  let stored = { heads: [], records: [] };
  try {
    await openDatabase({ onBlocked: () => setProblem("blocked"), onLost: (reason) => setProblem(reason === "newer" ? "newer" : "failed") });
    stored = await readAll();
    setProblem("");
  } catch (error) {
    setProblem(error?.name === "VersionError" ? "newer" : "none");
  }
  onLoaded(stored);
  if (isOpen()) flush();
}

/** Store a conversation that is new or comes back, whole. */
export function saveConversation(conversation) {
  const change = { type: "add", head: headOf(conversation), records: recordsOf(conversation) };
  make(change);
  tell("saved", change);
}

/** Store new messages of a conversation that is stored, and its shown end. */
export function saveMessages(conversation, nodes) {
  const change = { type: "messages", records: nodes.map((node) => recordOf(conversation, node)) };
  make(change);
  tell("saved", { ...change, head: headOf(conversation) });
  saveHead(conversation, ["leafId", "updatedMs"], { isTold: false });
}

/** Store how far an answer is. */
export function saveAnswer(conversation, node) {
  const record = recordOf(conversation, node);
  make({ type: "answer", record });
  tell("saved", { type: "answer", head: headOf(conversation), records: [record] });
}

/** Store fields of a conversation's head. */
export function saveHead(conversation, names, { isTold = true } = {}) {
  const fields = Object.fromEntries(names.map((name) => [name, conversation[name]]));
  make({ type: "head", id: conversation.id, fields });
  if (isTold) tell("head", { id: conversation.id, fields });
}

/** Delete messages, or with null the whole conversation. */
export function saveRemoval(conversation, messageIds) {
  make({ type: "remove", id: conversation.id, messageIds });
  tell("removed", { id: conversation.id, messageIds });
  if (timer > 0 && isOpen()) flush(); // there is room now
}

/** Keep nothing of what was deleted, here or in another tab, to store it later. */
export function dropUnsaved(removal) {
  unsaved = unsaved.map((change) => leftAfter(removal, change)).filter(Boolean);
  for (const each of writing) each.change &&= leftAfter(removal, each.change);
}

/** The number of messages that only this page has. */
function numUnsaved() {
  const ids = new Set(unsaved.flatMap(({ records = [], record }) => (record ? [record, ...records] : records)).map(({ id }) => id));
  return ids.size;
}

/** Write a change; after one of the same conversation that could not be written, it waits for its turn. */
async function make(change) {
  if (change.type === "remove") dropUnsaved(change);
  if (!isOpen()) return hold(change, problem);
  if (change.type !== "remove" && unsaved.some((each) => conversationIdOf(each) === conversationIdOf(change))) return hold(change, problem);
  const written = { change };
  writing.add(written);
  try {
    await write([change]);
  } catch (error) {
    if (written.change) hold(written.change, reasonOf(error)); // what was not deleted meanwhile
  } finally {
    writing.delete(written);
  }
}

function hold(change, reason) {
  if (change.type === "answer") unsaved = unsaved.filter(({ type, record }) => type !== "answer" || record.id !== change.record.id);
  unsaved.push(change);
  setProblem(reason);
  if (isOpen()) flushLater();
}

const conversationIdOf = ({ type, head, id, record, records }) => (type === "add" ? head.id : id ?? (record ?? records[0]).conversationId);

/** What is left of `change`, which is not stored yet, after `removal`; null if that is nothing. */
export function leftAfter(removal, change) {
  if (conversationIdOf(change) !== removal.id) return change;
  if (removal.messageIds === null) return null;
  const isLeft = ({ id }) => !removal.messageIds.includes(id);
  if (change.type === "answer") return isLeft(change.record) ? change : null;
  if (!change.records) return change;
  const records = change.records.filter(isLeft);
  return records.length > 0 || change.type === "add" ? { ...change, records } : null; // later messages need the head
}

const reasonOf = (error) => (error?.name === "QuotaExceededError" ? "full" : "failed");

let timer = null;

function flushLater() {
  timer ??= setTimeout(flush, RETRY_MS);
}

/** Try again to store what could not be stored: of each conversation in order, up to the first that cannot be. */
async function flush() {
  clearTimeout(timer);
  timer = -1; // no other begins
  const refused = new Set();
  let reason = "";
  for (;;) {
    const change = unsaved.find((each) => !refused.has(conversationIdOf(each))); // what was deleted meanwhile is not there
    if (!change || !isOpen()) break;
    try {
      await write([change]);
      unsaved = unsaved.filter((each) => each !== change);
    } catch (error) {
      refused.add(conversationIdOf(change));
      reason = reasonOf(error);
    }
  }
  timer = null;
  if (!isOpen()) return;
  setProblem(unsaved.length > 0 ? reason || problem : "");
  if (unsaved.length > 0) flushLater();
}

function setProblem(reason) {
  problem = reason;
  onState(problem, numUnsaved());
}
