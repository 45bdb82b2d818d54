import assert from "node:assert/strict";
import { test } from "node:test";
import { count } from "../assets/shared/count.js";
import { jobLink, placeOf, requestLink } from "../assets/shared/links.js";
import { batchWords, cacheStory, draftRows, moreWords, rowState, seconds, sentence, sentences, stateOf, waitReason } from "../assets/dashboard/words.js";

test("times are short and have their unit", () => {
  assert.deepEqual([null, 0.0004, 0.079, 0.9996, 1.234, 83.21].map(seconds), ["–", "0.4 ms", "79 ms", "1000 ms", "1.23 s", "83.2 s"]);
});

test("numbers and nouns agree", () => {
  assert.equal(count(1, "token"), "1 token");
  assert.equal(count(12345, "token"), "12,345 tokens");
});

test("of drafts it is told which part was accepted, in all and by place", () => {
  const drafts = [
    { num_drafts: 0, drafted: 0, accepted: 0, accepted_by_position: [] },
    { num_drafts: 4, drafted: 12, accepted: 3, accepted_by_position: [2, 1] },
    { num_drafts: 4, drafted: 8, accepted: 2, accepted_by_position: [2] },
  ];
  assert.deepEqual(draftRows(drafts), [["accepted", 0.25], ["token 1", 0.5], ["token 2", 0.125]]);
  assert.deepEqual(draftRows(drafts.slice(0, 1)), []);
});

test("a list says how many requests it leaves out", () => {
  assert.equal(moreWords(0, 0), "");
  assert.equal(moreWords(123, 120), "And 3 more requests not listed, and 120 lines of batches waiting.");
  assert.equal(moreWords(1, 1), "And 1 line of batches waiting.");
  assert.equal(moreWords(1, 2), "And 2 lines of batches waiting."); // the numbers are of two moments
});

test("lines of batches are told from requests of clients, and paused ones from those that write", () => {
  const line = { route: "batch /v1/chat/completions", state: "running" };
  assert.equal(rowState({ ...line, route: "/v1/chat/completions" }), "Running");
  assert.deepEqual(["running", "paused", "waiting"].map((state) => rowState({ ...line, state })), ["Batch, running", "Batch, paused", "Batch, waiting"]);
  const words = [[5, 0, 4], [0, 1, 1], [0, 0, 1], [0, 0, 0]].map(([running, paused, waiting]) => batchWords({ running, paused, waiting }));
  assert.deepEqual(words, [
    { running: "requests running, and 5 batch lines", waiting: "waiting; 4 batch lines waiting" },
    { running: "requests running", waiting: "waiting; 1 batch line paused; 1 batch line waiting" },
    { running: "requests running", waiting: "waiting; 1 batch line waiting" },
    { running: "requests running", waiting: "waiting" },
  ]);
});

test("every moment is a sentence", () => {
  const told = [
    [{ what: "queued", num_running: 2 }, "Reached the engine: 2 running, 0 waiting."],
    [{ what: "queued", num_tokens: 7 }, "Reached the engine: 0 running, 0 waiting. It continues after the 7 tokens that it had before the restart."],
    [{ what: "waits", reason: "places" }, "Waited: all slots were taken (--max-num-seqs)."],
    [{ what: "admitted", num_tokens: 96 }, "Started, with 96 tokens from the cache."],
    [{ what: "admitted" }, "Started; the cache had no part of its prompt."],
    [{ what: "computed", num_tokens: 22, num_steps: 1, step_s: 0.05 }, "22 tokens of the prompt computed in 50 ms; that was the last."],
    [{ what: "computed", num_tokens: 4096, num_steps: 8, step_s: 2, num_left: 1000 }, "4,096 tokens of the prompt computed in 8 steps, 2.00 s; 1,000 to go."],
    [{ what: "preempted", reason: "memory", num_tokens: 30 }, "Gave up its slot and 30 computed tokens: an earlier request needed its room in the KV cache."],
    [{ what: "paused" }, "Paused, since clients’ requests came."],
    [{ what: "resumed", num_steps: 1, step_s: 2 }, "Went on, after a pause of 2.00 s."],
    [{ what: "resumed", num_steps: 12, step_s: 240 }, "Went on, after 12 pauses of 240 s together."],
    [{ what: "engine_ended", reason: "hang", cause: "the engine made no progress for 61 s" }, "The engine made no progress for 61 s; it was restarted. Requests continue if they can."],
    [{ what: "engine_ended", reason: "crash" }, "The engine process ended unexpectedly and was restarted. Requests continue if they can."],
    [{ what: "ended", reason: "length", num_steps: 59 }, "It reached its maximum length, after 59 steps of writing."],
    [{ what: "ended", reason: "queue_timeout" }, "It waited too long for its first step."],
  ];
  for (const [moment, text] of told) assert.equal(sentence(moment), text);
});

test("what preemption lost is told apart from the prompt", () => {
  const moments = [
    { what: "computed", num_tokens: 5, num_steps: 1 },
    { what: "preempted", reason: "fairness", num_tokens: 5 },
    { what: "computed", num_tokens: 5, num_steps: 1 },
  ];
  const texts = sentences(moments).map(({ text }) => text);
  assert.match(texts[0], /of the prompt/);
  assert.match(texts[2], /of what was lost/);
});

test("a wait for a place says whether others have theirs", () => {
  assert.doesNotMatch(waitReason({ reason: "places" }), /share/);
  assert.match(waitReason({ reason: "places", is_shared: true }), /its key has its share/);
});

test("the cache's part is told with what it saved", () => {
  assert.match(cacheStory({ request: { prompt_tokens: 10, cached_tokens: 0 } }), /All 10 prompt tokens had to be computed/);
  const told = cacheStory({ request: { prompt_tokens: 118, cached_tokens: 96 }, saved_s: 0.103 });
  assert.match(told, /^96 of 118 prompt tokens were in the KV cache/);
  assert.match(told, /about 103 ms/);
  assert.doesNotMatch(cacheStory({ request: { prompt_tokens: 118, cached_tokens: 96 }, saved_s: null }), /taken/);
});

test("states are words, and unknown ones stay", () => {
  assert.equal(stateOf({ state: "aborted" }), "Stopped");
  assert.equal(stateOf({ state: "new one" }), "new one");
});

test("a request's address leads back to its id", () => {
  for (const id of ["req_1", "a b/c?d#e", "100%", "ü"]) {
    assert.deepEqual(placeOf(requestLink(id)), { name: "request", id });
    assert.deepEqual(placeOf(jobLink(id)), { name: "job", id });
  }
  for (const hash of ["", "#", "#/", "#/requests/", "#other", "#/other/7"]) assert.deepEqual(placeOf(hash), { name: "overview", id: null });
  for (const hash of ["#/jobs", "#/jobs/"]) assert.deepEqual(placeOf(hash), { name: "jobs", id: null });
  assert.equal(placeOf("#/requests/100%").id, "100%");
});
