import assert from "node:assert/strict";
import { test } from "node:test";
import { figuresOf } from "../assets/chat/answers/figures.js";
import { contextTokens, contextWords, estimateTokens, isNear, overflowWords } from "../assets/chat/composer/context.js";
import { addNode, newConversation, pairOf, path, shownNodes } from "../assets/chat/tree.js";

const TIMINGS = { cache_n: 30, prompt_n: 70, prompt_ms: 1, predicted_n: 20, predicted_ms: 9, queue_ms: 0 };

test("a text has about as many tokens as its letters say", () => {
  assert.equal(estimateTokens(""), 0);
  assert.equal(estimateTokens("a".repeat(380)), 100);
  assert.equal(estimateTokens("水".repeat(100)), 100);
});

test("what the engine counted is taken as it is, and the rest is estimated", () => {
  const conversation = newConversation();
  assert.equal(contextTokens(conversation), 0);
  const question = addNode(conversation, null, { role: "user", content: "x".repeat(38) });
  assert.equal(contextTokens(conversation), 16);
  const answer = addNode(conversation, question.id, { role: "assistant", content: "y", stats: figuresOf(TIMINGS) });
  assert.equal(contextTokens(conversation), 120);
  answer.stats = figuresOf(TIMINGS, 50); // continued: the 50 that it had are in the prompt, too
  assert.equal(contextTokens(conversation), 120);
  assert.equal(contextTokens(conversation, { content: "", attachments: [{ name: "a", text: "z".repeat(380) }] }), 226);
});

test("a thought is in no further request", () => {
  const conversation = newConversation();
  const question = addNode(conversation, null, { role: "user", content: "x" });
  const fields = { role: "assistant", content: "abcde", reasoning: "f".repeat(15), toolCalls: [] };
  const answer = addNode(conversation, question.id, { ...fields, stats: figuresOf(TIMINGS) });
  assert.equal(contextTokens(conversation), 105);
  answer.toolCalls = [{ name: "abcde", arguments: "{\"g\":1}  " }];
  assert.equal(contextTokens(conversation), 111);
  Object.assign(answer, { toolCalls: [], stats: figuresOf({ ...TIMINGS, prompt_n: 80 }, 10) }); // continued
  assert.equal(contextTokens(conversation), 108);
});

test("it is said what does not fit, and for whom", () => {
  const words = (given) => contextWords({ numTokens: 7000, isExact: true, limit: 8192, maxTokens: 0, name: "tiny", ...given });
  assert.deepEqual(words(), { text: "7,000 of 8,192 tokens", isTooMuch: false, warning: "" });
  assert.equal(words({ numTokens: 8000 }).warning, "192 left for the answer");
  assert.deepEqual(words({ numTokens: 8192, isExact: false }), {
    text: "about 8,192 of 8,192 tokens", isTooMuch: true, warning: "This does not fit: about 8,192 tokens, and tiny takes 8,192, the answer among them.",
  });
  assert.equal(words({ maxTokens: 2000, isExact: false }).warning, "About 1,192 tokens are left for the answer, and your maximum length is 2,000.");
  assert.equal(words({ maxTokens: 1192 }).isTooMuch, false);
});

test("the server is asked to count where an estimate may be wrong by as much as is left", () => {
  assert.deepEqual([isNear(100, 400, 0), isNear(101, 400, 0), isNear(50, 400, 200), isNear(51, 400, 200)], [false, true, false, true]);
});

test("a message that does not fit is told with the limit and with what helps", () => {
  const words = (given) => overflowWords({ numTokens: 9000, limit: 8192, maxTokens: 0, name: "tiny", hasFiles: false, hasHistory: false, isBeside: false, hasOther: false, ...given });
  const stays = "Nothing was sent, and what you have written stays in its field.";
  assert.equal(words(), `The message has 9,000 tokens. tiny takes 8,192, the answer among them. Shorten it. ${stays}`);
  assert.equal(words({ hasFiles: true, hasHistory: true, hasOther: true }),
    `With the conversation before it, the message has 9,000 tokens. tiny takes 8,192, the answer among them. Shorten it, attach less, ask it in a new chat or send it to a model with more room. ${stays}`);
  assert.equal(words({ numTokens: 8000, maxTokens: 500 }),
    `The message has 8,000 tokens. tiny takes 8,192, the answer among them, which leaves 192; your maximum length of an answer is 500. Lower the maximum length or shorten the message. ${stays}`);
  assert.match(words({ isBeside: true }), /Shorten it or take tiny away from beside the other model\./);
});

test("two versions at the end of the path are shown side by side, and only there", () => {
  const conversation = newConversation();
  const question = addNode(conversation, null, { role: "user", content: "q" });
  const [one, other] = ["one", "other"].map((content) => addNode(conversation, question.id, { role: "assistant", content }));
  const shown = () => shownNodes(conversation).map(({ content }) => content);
  assert.deepEqual(shown(), ["q", "other"]);
  conversation.pair = [one.id, other.id];
  assert.deepEqual(shown(), ["q", "one", "other"]);
  assert.deepEqual(path(conversation).at(-1), other);
  addNode(conversation, other.id, { role: "user", content: "more" });
  assert.deepEqual(shown(), ["q", "other", "more"]);
  Object.assign(conversation, { leafId: other.id, pair: [one.id, "gone"] });
  assert.equal(pairOf(conversation), null);
});
