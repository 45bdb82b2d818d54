import assert from "node:assert/strict";
import { test } from "node:test";
import { costWords, meanLengths, planPath, planWords } from "../assets/dashboard/server/plan_words.js";

const PLAN = { one_more_fits: true, largest: { amount: 5 }, limit: "at 6, time per further token is 120 ms (p95), above 100 ms" };

test("lengths are whole, and one token at least", () => {
  assert.deepEqual(meanLengths({ prompt_tokens: 40.4, output_tokens: 14.5 }), { input: 40, output: 15 });
  assert.deepEqual(meanLengths({ prompt_tokens: 0, output_tokens: 1 }), { input: 1, output: 1 });
  assert.equal(meanLengths({ prompt_tokens: null, output_tokens: null }), null);
});

test("open requests are the users of the plan, and it has one at least", () => {
  const asked = (running, waiting) => new URLSearchParams(planPath({ model: "a b", running, waiting }, { input: 40, output: 15 }).split("?")[1]);
  assert.deepEqual(Object.fromEntries(asked(2, 1)), { model: "a b", input: "40", output: "15", concurrency: "3", slo: "ttft=2s,tpot=100ms" });
  assert.equal(asked(0, 0).get("concurrency"), "1");
});

test("a plan says whether one more fits, how many do, and why no more", () => {
  assert.match(planWords(PLAN, 2), /one more user beside 2 open requests fits: up to 5 users .*; at 6, time per further token is 120 ms/);
  assert.match(planWords({ ...PLAN, one_more_fits: false }, 5), /one more user beside 5 open requests does not fit: up to 5 users/);
  assert.match(planWords({ ...PLAN, one_more_fits: false, largest: { amount: 1 } }, 0), /^By the plan, a user fits: up to 1 user /);
  assert.match(planWords({ ...PLAN, one_more_fits: false, largest: null }, 0), /^By the plan, a user does not fit: no user keeps the limits; /);
});

test("steps have their cost, and the error of the last hour's predictions", () => {
  const none = { prompt_token_s: 0.0033, decode_step_s: 0.019, predicted_s: 0, measured_s: 0, error_s: 0 };
  const start = "At the start, a prompt token took 3.3 ms, and a step of one answer 19 ms; a simulation goes by these.";
  assert.equal(costWords(none), start);
  assert.equal(costWords({ ...none, prompt_token_s: 0 }), "");
  const told = "In the last hour, the step budget, which learns from each step, predicted their time with a mean error of 15 %, and";
  const hour = { ...none, predicted_s: 9, measured_s: 10, error_s: 1.5 };
  assert.equal(costWords(hour), `${start} ${told} 10 % too short in sum.`);
  assert.equal(costWords({ ...hour, decode_step_s: 0.25, predicted_s: 12 }), `${start.replace("19 ms", "250 ms")} ${told} 20 % too long in sum.`);
  assert.equal(costWords({ ...hour, decode_step_s: 0, predicted_s: 10.01 }), `${told} not at all in sum.`);
});
