// What the engine did with a request, and why, in words. No element is made here: tests run it without a browser.

export const seconds = (s) => (s == null ? "–" : s < 0.01 ? `${(s * 1000).toFixed(1)} ms` : s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);

export const count = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

const ENDS = {
  stop: "The model ended its answer, or a stop text came",
  length: "It reached the greatest length that it may have",
  abort: "Its client went away or stopped it; its place and its memory were free at the next step",
  timeout: "Its time was over",
  queue_timeout: "It waited too long for its first step",
  error: "The engine gave up on it",
};

const WAITS = {
  line: "others waited already",
  step: "a step of the engine was under way",
  places: "as many requests run as may at once (--max-num-seqs)",
  blocks: "the KV cache has no room for it: those that run need what is free",
  tokens: "the prompts before it take all tokens of the step",
  prefix: "another request computes the beginning that both have, and it will share that",
  grammar: "the grammar of its schema or its tools is being compiled",
  adapter: "its adapter is being read, or other adapters have all slots",
  others: "what is free is for one that came earlier, or whose key was served less",
};

const PREEMPTIONS = {
  memory: "a request before it needed its room in the KV cache",
  service_class: "a request of a more urgent class took its place",
  priority: "a request of a better priority took its place",
  fairness: "a request took its place whose key had less than its share",
  out_of_memory: "memory did not suffice for the step, which is computed again in smaller ones",
};

const ENGINE_ENDS = {
  crash: "The engine process ended unexpectedly and is started again",
  hang: "The engine made no progress, was killed, and is started again",
};

const STATES = {
  waiting: "Waiting", running: "Running", completed: "Completed", timeout: "Out of time", refused: "Refused",
  failed: "Failed", aborted: "Stopped",
};

export const stateOf = ({ state }) => STATES[state] ?? state;

/** Why it waited, as a part of a sentence. */
export const waitReason = ({ reason, is_shared: isShared }) =>
  (WAITS[reason] ?? reason) + (isShared && reason === "places" ? "; others have places too, and its key has its share" : "");

/** One moment of a story as a sentence. `lost`: whether what is computed was computed before, and lost. */
export function sentence(moment, { lost = false } = {}) {
  const { what, reason, num_tokens: tokens = 0, num_steps: steps = 0 } = moment;
  switch (what) {
    case "queued":
      return `Came to the engine: ${moment.num_running ?? 0} running, ${moment.num_waiting ?? 0} waiting` +
        (tokens ? `. It goes on after the ${count(tokens, "token")} that the engine before had written.` : ".");
    case "waits":
      return `Waits: ${waitReason(moment)}.`;
    case "admitted":
      return tokens ? `Gets a place, with ${count(tokens, "token")} from the cache.` : "Gets a place; the cache has no beginning of it.";
    case "computed":
      return `${count(tokens, "token")} ${lost ? "of what was lost" : "of its prompt"} computed in ${steps > 1 ? `${count(steps, "step")}, ` : ""}${seconds(moment.step_s ?? 0)}` +
        (moment.num_left ? `; ${moment.num_left.toLocaleString("en-US")} to go.` : "; all are there.");
    case "preempted":
      return `Gives up its place${tokens ? ` and ${count(tokens, "computed token")}` : ""}: ${PREEMPTIONS[reason] ?? reason}.`;
    case "engine_ended":
      return `${ENGINE_ENDS[reason] ?? reason}. Requests that can go on do.`;
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
  if (!cached) return `All ${count(tokens, "prompt token")} had to be computed: the cache had no beginning of this prompt.`;
  const saved = savedS ? ` Computing them would have taken about ${seconds(savedS)} more.` : "";
  return `${cached.toLocaleString("en-US")} of ${count(tokens, "prompt token")} were in the KV cache, left by an earlier request with the same beginning.${saved}`;
}
