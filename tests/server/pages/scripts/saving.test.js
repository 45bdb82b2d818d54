import assert from "node:assert/strict";
import { test } from "node:test";
import { openStorage, saveConversation, saveMessages, saveRemoval } from "../assets/chat/storage/saving.js";
import { addNode, newConversation, removeNode } from "../assets/chat/tree.js";

/** A database in which nothing is stored: each transaction waits for the test to end it, in `open`. */
function waitingDatabase() {
  const open = [];
  const store = { put() {}, delete() {}, get: () => ({}), getAll: () => settled([]) };
  const database = {
    transaction(names, mode) {
      const transaction = { objectStore: () => store, commit() {} };
      if (mode === "readwrite") open.push(transaction);
      return transaction;
    },
  };
  globalThis.indexedDB = { open: () => settled(database) };
  globalThis.IDBKeyRange = { bound() {} };
  return open;
}

function settled(result) {
  const request = { result };
  queueMicrotask(() => request.onsuccess());
  return request;
}

test("a message that was deleted while its storing was on its way is not kept for later when that is refused", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] }); // of the next try
  const open = waitingDatabase();
  const told = [];
  await openStorage(() => {}, (problem, numUnsaved) => told.push([problem, numUnsaved]));
  const refuse = async (transaction) => {
    transaction.error = Object.assign(new Error("no room"), { name: "QuotaExceededError" });
    transaction.onabort();
    await null;
    await null;
  };
  const conversation = newConversation();
  const question = addNode(conversation, null, { role: "user", content: "kept" });
  const answer = addNode(conversation, question.id, { role: "assistant", content: "deleted" });
  saveConversation(conversation);
  removeNode(conversation, answer.id);
  saveRemoval(conversation, [answer.id]);
  await refuse(open[0]);
  assert.deepEqual(told.at(-1), ["full", 1]); // the question
  const other = newConversation();
  saveMessages(other, [addNode(other, null, { role: "user", content: "deleted with all" })]);
  saveRemoval(other, null);
  for (const transaction of open.slice(2)) await refuse(transaction);
  assert.equal(told.at(-1)[1], 1);
});
