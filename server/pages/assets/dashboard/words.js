// What the engine did with a request, and why, in words.

import { short } from "./charts.js";

export const seconds = (s) => (s == null ? "–" : s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);

const ENDS = {
  stop: "The model ended its answer, or a stop text came.",
  length: "It reached the longest length that it may have.",
  abort: "Its client went away or stopped it; its place and its memory were free at the next step.",
  timeout: "Its time was over.",
  error: "The engine gave up on it.",
};

/** [[what, text]] for a request of a frame. */
export function story(request) {
  const told = [["Request", `${request.id} at ${request.route}, ${new Date(request.began_ms).toLocaleTimeString()}`]];
  if (request.error) told.push(["Refused or failed", `${request.status} ${request.error}`]);
  if (!request.prompt_tokens) return told;
  told.push(["Waiting", waiting(request)], ["Prompt", prompt(request)]);
  if (request.first_token_s != null) {
    const reading = request.first_token_s - (request.queue_s ?? 0);
    told.push(["First token", `after ${seconds(request.first_token_s)}, ${seconds(Math.max(0, reading))} of them for the prompt and for texts`]);
  }
  if (request.output_tokens) told.push(["Answer", answer(request)]);
  const ends = (request.finish ?? "").split(",").filter(Boolean).map((reason) => ENDS[reason] ?? reason);
  told.push(["End", ends.join(" ") || (request.status == null ? "It still runs." : `It ended with status ${request.status}.`)]);
  return told;
}

function waiting({ queue_s: queueS, status }) {
  if (queueS == null) return status == null ? "It waits for its turn." : "It never had its turn.";
  if (queueS < 0.02) return `${seconds(queueS)}: there was room at once.`;
  return `${seconds(queueS)}: the step before had to end, or all places were taken.`;
}

function prompt({ prompt_tokens: tokens, cached_tokens: cached }) {
  if (!cached) return `${tokens} tokens, all of them computed: the cache had no beginning of it.`;
  return `${tokens} tokens, ${cached} of them found in the cache from an earlier request with the same beginning; ${tokens - cached} were computed.`;
}

function answer({ output_tokens: tokens, seconds: all, first_token_s: first }) {
  const rate = tokens > 1 && first != null && all > first ? `, ${short((tokens - 1) / (all - first))} tokens/s` : "";
  return `${tokens} tokens${rate}`;
}
