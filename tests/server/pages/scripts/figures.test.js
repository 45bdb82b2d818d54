import assert from "node:assert/strict";
import { test } from "node:test";
import { figureDetails, figuresOf, figureWords } from "../assets/chat/answers/figures.js";

const timings = (given = {}) => ({
  cache_n: 30, prompt_n: 10, prompt_ms: 90, predicted_n: 21, predicted_ms: 2000, predicted_per_second: 10.5, queue_ms: 10, ...given,
});
const words = (given, more) => Object.values(figureWords({ ...figuresOf(timings(given)), ...more })).flat();

test("figures are the engine's: the rate is that between tokens, and the first one has the wait in it", () => {
  assert.deepEqual(words(), ["40 prompt tokens", "75% from the cache", "first after 100 ms", "21 tokens at 10.0/s"]);
  assert.match(figureDetails(figuresOf(timings())), /30 tokens of this conversation .* waited 10 ms .* last token: 2\.1 s\. Measured by the engine\./);
  assert.match(figureDetails(figuresOf(timings({ draft_n: 8, draft_n_accepted: 5 }))), /5 of 8 guessed tokens were right/);
});

test("tokens that come in one step have no rate", () => {
  assert.equal(words({ predicted_n: 34, predicted_ms: 0 }).at(-1), "34 tokens");
  assert.equal(words({ predicted_n: 1, predicted_ms: 0 }).at(-1), "1 token");
});

test("an answer that was stopped while its prompt was read says how far it came", () => {
  const read = words({ cache_n: 0, prompt_n: 512, predicted_n: 0, predicted_ms: 0 }, { numPromptTotal: 2048 });
  assert.deepEqual(read, ["512 of 2,048 prompt tokens read", "none from the cache"]);
});

test("all is 100%, and nothing else is", () => {
  assert.deepEqual([[999, 1], [1, 999], [40, 0]].map(([cache_n, prompt_n]) => words({ cache_n, prompt_n })[1]), [
    "99% from the cache", "1% from the cache", "100% from the cache",
  ]);
});

test("a continued answer counts the tokens that it had, and its rate is of the new ones", () => {
  const stats = figuresOf(timings(), 100);
  assert.deepEqual([stats.numTokens, stats.tokensPerSecond], [121, 10]);
});

test("times that an earlier page measured are left out", () => {
  const old = { numPromptTokens: 40, numCachedTokens: 0, numTokens: 20, firstTokenMs: 5, tokensPerSecond: 66666.6 };
  assert.deepEqual(Object.values(figureWords(old)).flat(), ["40 prompt tokens", "none from the cache", "20 tokens"]);
  assert.doesNotMatch(figureDetails(old), /Measured/);
  assert.equal(figureWords(null), null);
});
