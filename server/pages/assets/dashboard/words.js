// What the engine did with a request, and why, in words. No element is made here: tests run it without a browser.

import { count } from "../shared/count.js";

const MAX_DRAFT_PLACES = 8;

export const seconds = (s) => (s == null ? "–" : s < 0.01 ? `${(s * 1000).toFixed(1)} ms` : s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 10 ? 2 : s < 100 ? 1 : 0)} s`);

/** What the engine does in each phase of a step. */
export const PHASES = {
  schedule: "choosing what to compute", forward: "computing the model", sample: "choosing tokens", draft: "guessing ahead",
  update: "bookkeeping", send: "sending results",
};

const ENDS = {
  stop: "The model ended its answer, or wrote a stop text",
  length: "It reached its maximum length",
  abort: "Its client disconnected or stopped it; its slot and its memory were free at the next step",
  timeout: "Its time limit was reached",
  queue_timeout: "It waited too long for its first step",
  error: "The engine gave up on it",
};

const WAITS = {
  line: "other requests were waiting already",
  step: "a step of the engine was running",
  places: "all slots were taken (--max-num-seqs)",
  blocks: "the KV cache had no room for it: running requests need the free blocks",
  tokens: "earlier prompts took all tokens of the step",
  prefix: "another request was computing the prefix that both share",
  grammar: "the grammar of its schema or tools was being compiled",
  adapter: "its adapter was being loaded, or other adapters had all slots",
  tier: "the part of its prompt that an earlier request had computed was being read",
  paused: "clients’ requests were served",
  others: "the free room was for a request that came earlier, or whose key had been served less",
};

const PREEMPTIONS = {
  memory: "an earlier request needed its room in the KV cache",
  service_class: "a request of a more urgent class took its slot",
  priority: "a request with a better priority took its slot",
  fairness: "a request took its slot, from a key that had less than its share",
  out_of_memory: "memory ran out in the step, which is computed again in smaller steps",
};

const ENGINE_ENDS = {
  crash: "The engine process ended unexpectedly and was restarted",
  hang: "The engine made no progress, was killed and was restarted",
};

/** How an engine ended, without a period. `cause`: in words; empty if an older server stored it. */
export const engineEnd = (reason, cause) => (cause ? `${cause[0].toUpperCase()}${cause.slice(1)}; it was restarted` : ENGINE_ENDS[reason] ?? reason);

const STATES = {
  waiting: "Waiting", running: "Running", paused: "Paused", completed: "Completed", timeout: "Out of time", refused: "Refused",
  failed: "Failed", aborted: "Stopped",
};

export const stateOf = ({ state }) => STATES[state] ?? state;

const isOfBatch = ({ route }) => route.startsWith("batch ");

/** The state of a request, told apart if it is a line of a batch. */
export const rowState = (request) => (isOfBatch(request) ? `Batch, ${stateOf(request).toLowerCase()}` : stateOf(request));

/** What the engine's lines of batches do, after the numbers of running and of waiting requests. */
export function batchWords({ running, paused, waiting }) {
  const held = running ? 0 : paused;
  return {
    running: running ? `requests running, and ${count(running, "batch line")}` : "requests running",
    waiting: ["waiting", held && `${count(held, "batch line")} paused`, waiting && `${count(waiting, "batch line")} waiting`].filter(Boolean).join("; "),
  };
}

/** The open requests that a list leaves out. numLeft: how many, with the lines of batches that wait. */
export function moreWords(numLeft, numLinesWaiting) {
  const others = Math.max(0, numLeft - numLinesWaiting);
  const parts = [others && `${count(others, "more request")} not listed`, numLinesWaiting && `${count(numLinesWaiting, "line")} of batches waiting`].filter(Boolean);
  return parts.length ? `And ${parts.join(", and ")}.` : "";
}

/** Why it waited, as a part of a sentence. */
export const waitReason = ({ reason, is_shared: isShared }) =>
  (WAITS[reason] ?? reason) + (isShared && reason === "places" ? "; other keys have slots too, and its key has its share" : "");

/** One moment of a story as a sentence. `lost`: whether what is computed was computed before, and lost. */
export function sentence(moment, { lost = false } = {}) {
  const { what, reason, num_tokens: tokens = 0, num_steps: steps = 0 } = moment;
  switch (what) {
    case "queued":
      return `Reached the engine: ${moment.num_running ?? 0} running, ${moment.num_waiting ?? 0} waiting` +
        (tokens ? `. It continues after the ${count(tokens, "token")} that it had before the restart.` : ".");
    case "waits":
      return `Waited: ${waitReason(moment)}.`;
    case "admitted":
      return tokens ? `Started, with ${count(tokens, "token")} from the cache.` : "Started; the cache had no part of its prompt.";
    case "computed":
      return `${count(tokens, "token")} ${lost ? "of what was lost" : "of the prompt"} computed in ${steps > 1 ? `${count(steps, "step")}, ` : ""}${seconds(moment.step_s ?? 0)}` +
        (moment.num_left ? `; ${moment.num_left.toLocaleString("en-US")} to go.` : "; that was the last.");
    case "preempted":
      return `Gave up its slot${tokens ? ` and ${count(tokens, "computed token")}` : ""}: ${PREEMPTIONS[reason] ?? reason}.`;
    case "paused":
      return "Paused, since clients’ requests came.";
    case "resumed":
      return steps > 1 ? `Went on, after ${count(steps, "pause")} of ${seconds(moment.step_s ?? 0)} together.` : `Went on, after a pause of ${seconds(moment.step_s ?? 0)}.`;
    case "engine_ended":
      return `${engineEnd(reason, moment.cause)}. Requests continue if they can.`;
    case "ended":
      return `${ENDS[reason] ?? reason}${steps ? `, after ${count(steps, "step")} of writing` : ""}.`;
    default:
      return what;
  }
}

/** Each moment with its sentence: [{moment, text}]. */
export function sentences(moments) {
  let lost = false;
  return moments.map((moment) => {
    if (moment.what === "preempted" || (moment.what === "queued" && moment.num_tokens)) lost = true;
    const text = sentence(moment, { lost });
    if (moment.what === "computed" && !moment.num_left) lost = false;
    return { moment, text };
  });
}

/** What the cache did for the prompt. */
export function cacheStory({ request, saved_s: savedS }) {
  const { prompt_tokens: tokens, cached_tokens: cached } = request;
  if (!cached) return `All ${count(tokens, "prompt token")} had to be computed: the cache had no part of this prompt.`;
  const saved = savedS ? ` Computing them would have taken about ${seconds(savedS)}.` : "";
  return `${cached.toLocaleString("en-US")} of ${count(tokens, "prompt token")} were in the KV cache, left there by an earlier request that began the same way.${saved}`;
}

/** Which part of the drafted tokens was accepted, of all and of those in each place of a draft: [[label, share]]. */
export function draftRows(drafts) {
  const sum = (valueOf) => drafts.reduce((total, each) => total + valueOf(each), 0);
  const drafted = sum((each) => each.drafted);
  if (drafted === 0) return [];
  const numDrafts = sum((each) => each.num_drafts);
  const numPlaces = Math.min(MAX_DRAFT_PLACES, Math.max(...drafts.map((each) => each.accepted_by_position.length)));
  const acceptedAt = (place) => sum((each) => each.accepted_by_position[place] ?? 0);
  return [["accepted", sum((each) => each.accepted) / drafted], ...Array.from({ length: numPlaces }, (_, place) => [`token ${place + 1}`, acceptedAt(place) / numDrafts])];
}
