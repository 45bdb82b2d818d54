import assert from "node:assert/strict";
import { test } from "node:test";
import { stretches, ticks, waits } from "../assets/dashboard/timeline.js";

const short = (found) => found.map(({ name, fromS, toS }) => [name, fromS, toS]);

test("a request alone is prepared, reads its prompt and writes", () => {
  const moments = [
    { what: "queued", at_s: 0.1 },
    { what: "admitted", at_s: 0.1, num_tokens: 16 },
    { what: "computed", at_s: 0.3, step_s: 0.2, num_steps: 1, num_tokens: 5 },
    { what: "ended", at_s: 1, num_steps: 9 },
  ];
  assert.deepEqual(short(stretches(moments, 5)), [["preparing", 0, 0.1], ["prefill", 0.1, 0.3], ["decode", 0.3, 1]]);
});

test("chunks have gaps between them, and one that is merged begins where the one before it ended", () => {
  const moments = [
    { what: "queued", at_s: 0 },
    { what: "admitted", at_s: 1 },
    { what: "computed", at_s: 2, step_s: 0.5, num_steps: 1, num_left: 10 },
    { what: "computed", at_s: 4, step_s: 1, num_steps: 1, num_left: 5 },
    { what: "computed", at_s: 6, step_s: 1, num_steps: 2 },
  ];
  assert.deepEqual(short(stretches(moments, 7)), [
    ["waiting", 0, 1], ["waiting", 1, 1.5], ["prefill", 1.5, 2], ["between", 2, 3], ["prefill", 3, 4], ["prefill", 4, 6], ["decode", 6, 7],
  ]);
});

test("preemption and the engine's end interrupt it, and what lasts goes on until now", () => {
  const moments = [
    { what: "queued", at_s: 0 },
    { what: "admitted", at_s: 0 },
    { what: "computed", at_s: 1, step_s: 1, num_steps: 1 },
    { what: "preempted", at_s: 2, reason: "memory", num_tokens: 3 },
    { what: "engine_ended", at_s: 3, reason: "crash" },
    { what: "queued", at_s: 8, num_tokens: 2 },
  ];
  assert.deepEqual(short(stretches(moments, 9)), [
    ["prefill", 0, 1], ["decode", 1, 2], ["waiting", 2, 3], ["restart", 3, 8], ["waiting", 8, 9],
  ]);
});

test("without a moment it is being prepared", () => {
  assert.deepEqual(short(stretches([], 2)), [["preparing", 0, 2]]);
});

test("stretches follow one another, whatever the clocks say", () => {
  const moments = [
    { what: "queued", at_s: 1 },
    { what: "admitted", at_s: 0.9 },
    { what: "computed", at_s: 0.95, step_s: 3, num_steps: 1 },
    { what: "ended", at_s: 2 },
  ];
  const found = stretches(moments, 9);
  found.slice(1).forEach(({ fromS }, index) => assert.equal(fromS, found[index].toS));
  assert.ok(found.every(({ fromS, toS }) => fromS < toS));
});

test("pauses are told from writing, and merged ones have their length", () => {
  const moments = [
    { what: "queued", at_s: 0, num_waiting: 2 },
    { what: "engine_ended", at_s: 2 },
    { what: "queued", at_s: 2, num_waiting: 1 },
    { what: "admitted", at_s: 5 },
    { what: "computed", at_s: 6, step_s: 1, num_steps: 1, num_left: 4 },
    { what: "paused", at_s: 6 },
    { what: "resumed", at_s: 8, num_steps: 1, step_s: 2 },
    { what: "computed", at_s: 9, step_s: 1, num_steps: 1 },
    { what: "paused", at_s: 10 },
    { what: "resumed", at_s: 50, num_steps: 3, step_s: 30 },
    { what: "paused", at_s: 60 },
  ];
  const found = stretches(moments, 65);
  assert.deepEqual(short(found), [
    ["waiting", 0, 2], ["waiting", 2, 5], ["prefill", 5, 6], ["paused", 6, 8], ["prefill", 8, 9], ["decode", 9, 10], ["paused", 10, 40], ["decode", 40, 60], ["paused", 60, 65],
  ]);
  assert.deepEqual(waits(moments, 65).map((each) => [each.reason, each.seconds]), [["line", 5], ["paused", 37]]);
});

test("each reason to wait lasts until the next moment", () => {
  const moments = [
    { what: "queued", at_s: 0, num_waiting: 3 },
    { what: "waits", at_s: 1, reason: "places", is_shared: true },
    { what: "waits", at_s: 3, reason: "blocks" },
    { what: "engine_ended", at_s: 5, reason: "crash" },
    { what: "queued", at_s: 6 },
  ];
  assert.deepEqual(waits(moments, 7).map((each) => [each.reason, each.is_shared ?? false, each.seconds]), [
    ["line", false, 1], ["places", true, 2], ["blocks", false, 2], ["step", false, 1],
  ]);
});

test("one that was preempted waits for a step until the scheduler has looked at it", () => {
  const moments = [
    { what: "admitted", at_s: 0 },
    { what: "preempted", at_s: 1, reason: "memory", num_tokens: 3 },
    { what: "waits", at_s: 3, reason: "blocks" },
    { what: "admitted", at_s: 4 },
    { what: "preempted", at_s: 6, reason: "fairness" },
  ];
  assert.deepEqual(waits(moments, 7).map((each) => [each.reason, each.seconds]), [["step", 3], ["blocks", 1]]);
});

test("an axis has a few round ticks, from zero to its end", () => {
  for (const lengthS of [0.003, 0.1, 0.7, 1, 9.99, 60, 3601]) {
    const found = ticks(lengthS);
    assert.equal(found[0], 0);
    assert.ok(found.length >= 3 && found.length <= 7, `${lengthS}: ${found}`);
    assert.ok(found.at(-1) <= lengthS * 1.001);
  }
  assert.deepEqual(ticks(0), [0]);
});
