import assert from "node:assert/strict";
import { test } from "node:test";
import { emptyAnswer, newRun, reopen } from "../assets/chat/answers/answer.js";
import { canContinue, continuationBody, examples, requestBody } from "../assets/chat/request.js";
import { isLong, joinPages } from "../assets/chat/composer/files.js";
import { isPlace } from "../assets/chat/places.js";
import { parseExport } from "../assets/chat/transfer.js";
import { addNode, newConversation, path, removeNode, showVersion, siblingIds, titleOf } from "../assets/chat/tree.js";
import { events } from "../assets/shared/sse.js";

const SETTINGS = { stop: "", logprobs: false, effort: "" };
const contents = (conversation) => path(conversation).map((node) => node.content);

function conversationOf(...texts) {
  const conversation = newConversation();
  let parentId = null;
  texts.forEach((content, index) => {
    const fields = index % 2 ? { ...emptyAnswer("m"), content } : { role: "user", content };
    parentId = addNode(conversation, parentId, fields).id;
  });
  return conversation;
}

test("another answer is a branch, and both are kept", () => {
  const conversation = conversationOf("question", "one");
  const [question, one] = path(conversation);
  addNode(conversation, question.id, { role: "assistant", content: "two" });
  assert.deepEqual(contents(conversation), ["question", "two"]);
  assert.equal(siblingIds(conversation, one).length, 2);
  showVersion(conversation, one.id);
  assert.deepEqual(contents(conversation), ["question", "one"]);
});

test("removing a node removes what is below it, and shows what is left", () => {
  const conversation = conversationOf("question", "answer", "more", "again");
  removeNode(conversation, path(conversation)[1].id);
  assert.deepEqual(contents(conversation), ["question"]);
  assert.equal(Object.keys(conversation.nodes).length, 1);
  removeNode(conversation, conversation.leafId);
  assert.deepEqual([conversation.leafId, conversation.rootIds, titleOf(conversation)], [null, [], "New chat"]);
});

test("a request has the shown branch, the system prompt, and what the settings ask for", () => {
  const conversation = { ...conversationOf("Hello", "Hi", "More"), system: "Be brief.", schema: '{"type": "object"}' };
  const body = requestBody(conversation, { ...SETTINGS, temperature: 0.5, stop: "a\n\nb" }, "m");
  assert.deepEqual(body.messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
  assert.deepEqual([body.model, body.temperature, body.stop], ["m", 0.5, ["a", "b"]]);
  assert.deepEqual(body.response_format.json_schema.schema, { type: "object" });
});

test("broken JSON is refused in words before anything is sent", () => {
  assert.throws(() => requestBody({ ...conversationOf("x"), schema: "{" }, SETTINGS, "m"), /“JSON schema” in the settings is wrong. It cannot be read as JSON/);
  assert.throws(() => requestBody({ ...conversationOf("x"), tools: "{}" }, SETTINGS, "m"), /“Tools” in the settings is wrong. It is not a list/);
});

test("attached files stand in fences that they cannot close", () => {
  const conversation = newConversation();
  addNode(conversation, null, { role: "user", content: "Read it.", attachments: [{ name: "a.md", text: "```\ncode\n```" }] });
  const [{ content }] = requestBody(conversation, SETTINGS, "m").messages;
  assert.equal(content, "a.md:\n````\n```\ncode\n```\n````\n\nRead it.");
});

test("examples can be pasted, with quotes in them and settings beyond OpenAI's", () => {
  const body = { messages: [{ role: "user", content: "it's" }], top_k: 5, temperature: 1 };
  const texts = examples(body, "http://h/", true);
  assert.match(texts.curl, /'it'\\''s'|it'\\''s/);
  assert.match(texts.curl, /Bearer YOUR_KEY/);
  assert.match(texts.Python, /"extra_body": \{\n\s+"top_k": 5/);
  assert.doesNotMatch(examples(body, "http://h/", false).curl, /Bearer/);
});

test("an export is read back under new ids, and a damaged one is refused whole", () => {
  const conversation = conversationOf("question", "answer");
  const file = { format: "headrace.conversations.v1", conversations: [conversation] };
  const [read] = parseExport(JSON.stringify(file));
  assert.notEqual(read.id, conversation.id);
  assert.deepEqual(contents(read), ["question", "answer"]);
  assert.throws(() => parseExport("{}"), /holds no headrace conversations/);
  assert.throws(() => parseExport("no"), /not JSON/);
  delete conversation.nodes[conversation.leafId];
  assert.throws(() => parseExport(JSON.stringify(file)), /damaged/);
});

async function read(...pieces) {
  const stream = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
  const found = [];
  for await (const { data } of events(stream)) found.push(data);
  return found;
}

test("events are the same however the network cuts them", async () => {
  const bytes = new TextEncoder().encode(": ping\n\ndata: ünï\ndata: two\r\n\r\ndata:[DONE]\n\ndata: cut");
  const whole = await read(bytes);
  assert.deepEqual(whole, ["ünï\ntwo", "[DONE]"]);
  for (let at = 1; at < bytes.length; at += 1) assert.deepEqual(await read(bytes.slice(0, at), bytes.slice(at)), whole);
  assert.deepEqual(await read(...Array.from(bytes, (byte) => Uint8Array.of(byte))), whole);
});

test("an answer is continued where its text ends, without the blanks there", () => {
  const conversation = conversationOf("question", "half of \n");
  const [, answer] = path(conversation);
  answer.reasoning = "a thought";
  const body = continuationBody(conversation, SETTINGS, "m", answer);
  assert.deepEqual(body.messages.at(-1), { role: "assistant", content: "half of", reasoning_content: "a thought" });
  assert.deepEqual([body.continue_final_message, body.add_generation_prompt], [true, false]);
  Object.assign(answer, { stats: { numTokens: 4 }, error: { message: "x" }, finishReason: "length", tokens: [{ text: "half" }] });
  reopen(answer, { model: "other" });
  assert.deepEqual([answer.content, answer.error, answer.finishReason, answer.tokens, answer.run.numBefore], ["half of", null, null, null, 4]);
  assert.equal(answer.model, "other"); // which goes on where the first one is gone
});

test("token probabilities of a continuation are asked for if those of the text before it are there", () => {
  const conversation = conversationOf("question", "half");
  const [, answer] = path(conversation);
  const tokens = [{ text: "half" }];
  const found = [null, tokens].flatMap((each) => [false, true].map((logprobs) => {
    const node = { ...answer, tokens: each };
    const body = continuationBody(conversation, { ...SETTINGS, logprobs }, "m", node);
    reopen(node, body);
    return [body.logprobs, body.top_logprobs, node.tokens];
  }));
  const none = [undefined, undefined, null];
  assert.deepEqual(found, [none, none, none, [true, 5, tokens]]);
});

test("what is no place of the page is no address of a new chat", () => {
  assert.deepEqual(["", "#/c/0123", "#input", "#/d"].map(isPlace), [true, true, false, false]);
});

test("what must be whole from its beginning is not continued, nor what is empty, runs, or was answered", () => {
  const conversation = conversationOf("question", "half");
  const [question, answer] = path(conversation);
  assert.equal(canContinue(conversation, answer), true);
  assert.equal(canContinue(conversation, question), false);
  for (const change of [{ content: " " }, newRun(), { toolCalls: [{}] }, { childIds: ["x"] }]) {
    assert.equal(canContinue(conversation, { ...answer, ...change }), false);
  }
  assert.equal(canContinue({ ...conversation, schema: "{}" }, answer), false);
});

test("a long text is a file, and the pages of one are told apart", () => {
  assert.deepEqual([isLong("a\nb"), isLong("a".repeat(5000)), isLong("a\n".repeat(100))], [false, true, true]);
  assert.equal(joinPages([" only \n"]), "only");
  assert.equal(joinPages(["one", "", "three"]), "--- Page 1 ---\none\n\n--- Page 2 ---\n\n\n--- Page 3 ---\nthree");
  assert.equal(joinPages(["", " \n"]), "");
});
