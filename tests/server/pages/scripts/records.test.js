import assert from "node:assert/strict";
import { test } from "node:test";
import { emptyAnswer, newRun } from "../assets/chat/answers/answer.js";
import { addRecords, conversationOf, dropRecords, headOf, isBehind, orderByLists, recordOf, recordsOf, recordsToAdd } from "../assets/chat/storage/records.js";
import { leftAfter } from "../assets/chat/storage/saving.js";
import { addNode, newConversation, nodesFrom, path, removeNode, showVersion, siblingIds } from "../assets/chat/tree.js";

const contents = (conversation) => path(conversation).map(({ content }) => content);
const ask = (conversation, content, parentId = conversation.leafId) => addNode(conversation, parentId, { role: "user", content });
const copyOf = (conversation) => conversationOf(headOf(conversation), recordsOf(conversation));

function conversationWith(...texts) {
  const conversation = newConversation();
  for (const text of texts) ask(conversation, text);
  return conversation;
}

test("a conversation is the same again from its records, in any order", () => {
  const conversation = conversationWith("a", "b", "c");
  ask(conversation, "b2", path(conversation)[0].id);
  const again = conversationOf(headOf(conversation), recordsOf(conversation).reverse());
  assert.deepEqual(again, conversation);
});

test("two tabs that add to one conversation keep each other's messages", () => {
  const one = conversationWith("a", "b");
  const other = copyOf(one);
  const mine = ask(one, "mine");
  const yours = ask(other, "yours");
  addRecords(one, [recordOf(other, yours)]);
  addRecords(other, [recordOf(one, mine)]);
  assert.deepEqual(siblingIds(one, mine), siblingIds(other, yours));
  assert.deepEqual([contents(one), contents(other)], [["a", "b", "mine"], ["a", "b", "yours"]]);
});

test("what is added at the shown end is shown, and what is added elsewhere is not", () => {
  const conversation = conversationWith("a", "b");
  const other = copyOf(conversation);
  const next = ask(other, "c");
  addRecords(conversation, [recordOf(other, next)]);
  assert.deepEqual(contents(conversation), ["a", "b", "c"]);
  const branch = ask(other, "b2", path(other)[0].id);
  addRecords(conversation, [recordOf(other, branch)]);
  assert.deepEqual(contents(conversation), ["a", "b", "c"]);
});

test("a message that comes before its parent is shown, and takes its place when the parent comes", () => {
  const whole = conversationWith("a", "b");
  const [a, b] = path(whole).map((node) => recordOf(whole, node));
  const conversation = conversationOf({ ...headOf(whole), leafId: null }, [b]);
  assert.deepEqual(contents(conversation), ["b"]);
  addRecords(conversation, [a]);
  assert.deepEqual([contents(conversation), conversation.rootIds], [["a", "b"], [a.id]]);
});

test("a leaf that was stored before the messages below it is followed to their end", () => {
  const whole = conversationWith("a", "b", "c");
  const again = conversationOf({ ...headOf(whole), leafId: path(whole)[0].id }, recordsOf(whole));
  assert.deepEqual(contents(again), ["a", "b", "c"]);
});

test("what is removed can be put back, with its branches", () => {
  const conversation = conversationWith("a", "b", "c");
  ask(conversation, "c2", path(conversation)[1].id);
  const before = structuredClone(conversation);
  const [, b] = path(conversation);
  assert.equal(nodesFrom(conversation, b.id).length, 3);
  const records = nodesFrom(conversation, b.id).map((node) => recordOf(conversation, node));
  removeNode(conversation, b.id);
  assert.deepEqual(contents(conversation), ["a"]);
  addRecords(conversation, records);
  assert.deepEqual(conversation, { ...before, updatedMs: conversation.updatedMs });
});

test("removing what is not shown leaves what is shown", () => {
  const conversation = conversationWith("a", "b");
  const hidden = path(conversation)[1];
  ask(conversation, "b2", path(conversation)[0].id);
  removeNode(conversation, hidden.id);
  assert.deepEqual(contents(conversation), ["a", "b2"]);
});

test("what another tab has removed is gone, and the nearest message is shown", () => {
  const conversation = conversationWith("a", "b", "c");
  const [, b, c] = path(conversation);
  dropRecords(conversation, [b.id, c.id, "unknown"]);
  assert.deepEqual([contents(conversation), Object.keys(conversation.nodes).length], [["a"], 1]);
});

test("an answer does not go back to an earlier state that another tab has of it", () => {
  const conversation = conversationWith("a");
  const node = addNode(conversation, conversation.leafId, { ...emptyAnswer("m"), ...newRun() });
  node.run.numEvents = 5;
  const later = { ...recordOf(conversation, node), content: "a long text", run: { ...node.run, numEvents: 9 } };
  const ended = { ...later, isRunning: false, finishReason: "stop" };
  assert.deepEqual([isBehind(node, later), isBehind(later, node), isBehind(later, ended), isBehind(ended, later)], [true, false, true, false]);
  addRecords(conversation, [ended]);
  addRecords(conversation, [later]);
  assert.deepEqual([node.finishReason, node.content], ["stop", "a long text"]);
  const again = { ...later, run: newRun().run, content: "" }; // it is continued
  assert.equal(isBehind(again, node), false);
});

test("nothing of a record is shared with the page's message", () => {
  const conversation = conversationWith("a");
  const node = addNode(conversation, conversation.leafId, { ...emptyAnswer("m"), progress: { processed: 1 } });
  const record = recordOf(conversation, node);
  node.toolCalls.push({ id: "1" });
  assert.deepEqual([record.toolCalls, record.progress, record.childIds, record.conversationId], [[], undefined, undefined, conversation.id]);
});

test("what was stored in one piece keeps the order of its versions, without times or with equal ones", () => {
  const conversation = newConversation();
  conversation.createdMs = 100;
  for (const id of ["z", "a", "m"]) conversation.nodes[id] = { id, parentId: null, childIds: [], role: "user", content: id, createdMs: id === "m" ? 5 : undefined };
  conversation.rootIds = ["z", "a", "m"];
  orderByLists(conversation);
  assert.deepEqual(conversationOf(headOf(conversation), recordsOf(conversation)).rootIds, ["z", "a", "m"]);
});

test("a shown version is the one after a reload", () => {
  const conversation = conversationWith("a", "b");
  const first = path(conversation)[1];
  ask(conversation, "b2", path(conversation)[0].id);
  showVersion(conversation, first.id);
  assert.deepEqual(contents(copyOf(conversation)), ["a", "b"]);
});

test("what another tab stores of messages that were deleted here does not bring them back", () => {
  const known = conversationWith("a", "b");
  const records = recordsOf(known);
  const [a, b] = records;
  removeNode(known, b.id);
  const ids = (type, conversation) => recordsToAdd({ type, records }, conversation).map(({ id }) => id);
  assert.deepEqual([ids("add", undefined), ids("messages", undefined), ids("answer", undefined)], [[a.id, b.id], [], []]);
  assert.deepEqual([ids("messages", known), ids("answer", known)], [[a.id, b.id], [a.id]]); // it was brought back there; it is not
});

test("what was deleted is not stored later, when there is room", () => {
  const conversation = conversationWith("a", "b");
  const [a, b] = recordsOf(conversation);
  const { id } = conversation;
  const changes = [
    { type: "add", head: headOf(conversation), records: [a, b] }, { type: "messages", records: [a, b] },
    { type: "answer", record: b }, { type: "head", id, fields: {} }, { type: "remove", id, messageIds: ["other"] },
  ];
  const after = (conversationId, messageIds) => changes.map((each) => leftAfter({ type: "remove", id: conversationId, messageIds }, each));
  const [add, messages, answer, head, removal] = changes;
  assert.deepEqual(after(id, [b.id]), [{ ...add, records: [a] }, { ...messages, records: [a] }, null, head, removal]);
  assert.deepEqual(after(id, [a.id, b.id]), [{ ...add, records: [] }, null, null, head, removal]);
  assert.deepEqual(after(id, null), [null, null, null, null, null]);
  assert.deepEqual(after("another", null), changes);
});
