import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { told } from "./page_stub.js";

const { send } = await import("../assets/chat/answers/answering.js");
const { drawWith } = await import("../assets/chat/drawing.js");
const { page } = await import("../assets/chat/page.js");
const { addNode, newConversation, path } = await import("../assets/chat/tree.js");

const QUESTION = { content: "And then?", attachments: [] };
let first; // the answer that the conversation ends with

mock.timers.enable({ apis: ["setTimeout"] }); // of notices, which would hold the process
drawWith({ message: { reopen() {} }, conversation: {} });
globalThis.fetch = () => new Promise(() => {});

beforeEach(() => {
  told.length = 0;
  page.current = newConversation();
  page.conversations = [page.current];
  const question = addNode(page.current, null, { role: "user", content: "What?", attachments: [] });
  first = addNode(page.current, question.id, { role: "assistant", content: "That.", toolCalls: [] });
});

const questions = () => Object.values(page.current.nodes).filter(({ role }) => role === "user").map(({ content }) => content);

test("a question is added below the shown end, and its answer below it", async () => {
  assert.equal(await send(QUESTION), true);
  assert.deepEqual(questions(), ["What?", "And then?"]);
  assert.deepEqual(path(page.current).map(({ role }) => role), ["user", "assistant", "user", "assistant"]);
});

test("a question is not added below an answer that began while it was found out whether it fits", async () => {
  const sending = send(QUESTION);
  const again = addNode(page.current, first.parentId, { role: "assistant", content: "Th", toolCalls: [], isRunning: true });
  assert.equal(await sending, false);
  assert.deepEqual(questions(), ["What?"]);
  assert.equal(page.current.leafId, again.id);
  assert.match(told.join(" "), /An answer is arriving\. Stop it with Esc, or send this when it is complete\./);
});

test("nor below another end that the conversation got meanwhile", async () => {
  const sending = send(QUESTION);
  addNode(page.current, first.parentId, { role: "assistant", content: "This.", toolCalls: [] });
  assert.equal(await sending, false);
  assert.deepEqual(questions(), ["What?"]);
  assert.match(told.join(" "), /The conversation has changed meanwhile\. Look at its end, and send this again\./);
});

test("a question that is taken back meanwhile is not added", async () => {
  const abort = new AbortController();
  const sending = send(QUESTION, abort.signal);
  abort.abort();
  assert.equal(await sending, false);
  assert.deepEqual(questions(), ["What?"]);
});

test("a question whose request cannot be made is taken back, and that is said", async () => {
  first.toolCalls = [null]; // as of a damaged record
  assert.equal(await send(QUESTION), false);
  assert.deepEqual(questions(), ["What?"]);
  assert.equal(page.current.leafId, first.id);
  assert.match(told.join(" "), /It cannot be made from this conversation: Cannot read properties of null/);
});
