// The plan of a served model in words. No element is made here: tests run it without a browser.

import { count } from "../../shared/count.js";

const LIMITS = "ttft=2s,tpot=100ms"; // those of "Would one more user fit?"

/** Mean tokens of the model's latest answered requests, as the plan takes them: {input, output}; null without any. */
export const meanLengths = ({ prompt_tokens: prompt, output_tokens: output }) =>
  output == null ? null : { input: Math.max(1, Math.round(prompt)), output: Math.max(1, Math.round(output)) };

/** The request for the plan of a model whose open requests are its users. */
export const planPath = ({ model, running, waiting }, { input, output }) =>
  `v1/plan?${new URLSearchParams({ model, input, output, concurrency: Math.max(1, running + waiting), slo: LIMITS })}`;

/** Whether one more user fits by the plan, as a sentence. numUsers: the open requests; a plan of 0 is one of 1. */
export function planWords(plan, numUsers) {
  const most = plan.largest?.amount ?? 0;
  const fits = numUsers ? plan.one_more_fits : most >= 1;
  const room = most ? `up to ${count(most, "user")} without pauses get first tokens within 2 s and further ones within 100 ms (95 of 100 requests)` : "no user keeps the limits";
  const user = numUsers ? `one more user beside ${count(numUsers, "open request")}` : "a user";
  return `By the plan, ${user} ${fits ? "fits" : "does not fit"}: ${room}; ${plan.limit}.`;
}

const ms = (s) => `${s < 0.1 ? Number((s * 1000).toPrecision(2)) : Math.round(s * 1000)} ms`;

/** What steps cost, and how well their time was predicted in the last hour; "" before that is known. */
export function costWords({ prompt_token_s: token, decode_step_s: step, predicted_s: predicted, measured_s: measured, error_s: error }) {
  const cost = token && step ? `At the start, a prompt token took ${ms(token)}, and a step of one answer ${ms(step)}; a simulation goes by these.` : "";
  if (!measured) return cost;
  const percent = (share) => `${Math.round(100 * Math.abs(share))} %`;
  const bias = (predicted - measured) / measured;
  const sum = Math.abs(bias) < 0.005 ? "not at all in sum" : `${percent(bias)} too ${bias < 0 ? "short" : "long"} in sum`;
  return `${cost} In the last hour, the step budget, which learns from each step, predicted their time with a mean error of ${percent(error / measured)}, and ${sum}.`.trim();
}
