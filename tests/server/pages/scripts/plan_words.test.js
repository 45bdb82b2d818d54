import assert from "node:assert/strict";
import { test } from "node:test";
import { meanLengths, planPath, planWords } from "../assets/dashboard/server/plan_words.js";

const use = (requests, refused, prompt, output) => ({ requests, refused, prompt_tokens: prompt, cached_tokens: 0, output_tokens: output });
const PLAN = { one_more_fits: true, largest: { amount: 5 }, limit: "at 6, time per further token is 120 ms (p95), above 100 ms" };

test("lengths are means of the answered requests", () => {
  assert.deepEqual(meanLengths({ buckets: [{ keys: { a: use(3, 1, 100, 40), b: use(1, 0, 20, 5) } }, { keys: {} }] }), { input: 40, output: 15 });
  assert.equal(meanLengths({ buckets: [{ keys: { a: use(2, 2, 0, 0) } }] }), null);
  assert.equal(meanLengths({ buckets: [] }), null);
});

test("open requests are the users of the plan, and it has one at least", () => {
  const asked = (running, waiting) => new URLSearchParams(planPath({ model: "a b", running, waiting }, { input: 40, output: 15 }).split("?")[1]);
  assert.deepEqual(Object.fromEntries(asked(2, 1)), { model: "a b", input: "40", output: "15", concurrency: "3", slo: "ttft=2s,tpot=100ms" });
  assert.equal(asked(0, 0).get("concurrency"), "1");
});

test("a plan says whether one more fits, how many do, and why no more", () => {
  assert.match(planWords(PLAN, 2), /than the 2 users of now fits: up to 5 users .*; at 6, time per further token is 120 ms/);
  assert.match(planWords({ ...PLAN, one_more_fits: false }, 5), /than the 5 users of now does not fit: up to 5 users/);
  assert.match(planWords({ ...PLAN, one_more_fits: false, largest: { amount: 1 } }, 0), /than the 0 users of now fits: up to 1 user /);
  assert.match(planWords({ ...PLAN, one_more_fits: false, largest: null }, 0), /does not fit: no user keeps the limits; /);
});
