// A story's moments as stretches of time. No element is made here: tests run it without a browser.

/**
 * The stretches of a choice, in order and without overlap: [{name, fromS, toS}], in seconds since the request's arrival.
 * Names: "preparing" (in the API process), "waiting", "prefill", "between" (chunks of the prompt), "decode", "paused", "restart". `nowS` ends what still lasts.
 */
export function stretches(moments, nowS) {
  const found = [];
  let name = "preparing";
  let sinceS = 0;
  let paused = "decode"; // the stretch that a pause interrupted
  const until = (toS, next) => {
    if (toS > sinceS) found.push({ name, fromS: sinceS, toS });
    sinceS = Math.max(sinceS, toS);
    name = next;
  };
  for (const moment of moments) {
    const { what, at_s: atS } = moment;
    if (what === "queued" || what === "admitted" || what === "preempted") until(atS, "waiting");
    else if (what === "computed") {
      if (moment.num_steps === 1) until(Math.max(sinceS, atS - (moment.step_s ?? 0)), "prefill");
      name = "prefill";
      until(atS, moment.num_left ? "between" : "decode");
    } else if (what === "paused") {
      paused = name;
      until(atS, "paused");
    } else if (what === "resumed" && name === "paused") until(Math.min(atS, sinceS + (moment.step_s ?? 0)), paused);
    else if (what === "engine_ended") until(atS, "restart");
    else if (what === "ended") until(atS, null);
  }
  if (name !== null) until(nowS, null);
  return found;
}

/**
 * How long a choice waited, and why: [{reason, is_shared, seconds}], each reason once. Until the scheduler has looked at it the reason is
 * "line", behind those that waited already, or "step", for the end of the one that ran, as after a preemption.
 */
export function waits(moments, nowS) {
  const found = new Map();
  moments.forEach(({ what, at_s: atS, reason, is_shared, num_waiting: numWaiting }, index) => {
    if (!["queued", "waits", "preempted", "paused"].includes(what)) return;
    const next = moments[index + 1];
    const waited = Math.max(0, next?.what === "resumed" ? next.step_s ?? 0 : (next?.at_s ?? nowS) - atS);
    const why = what === "waits" ? reason : what === "paused" ? what : numWaiting ? "line" : "step";
    const key = `${why} ${is_shared ?? false}`;
    found.set(key, { reason: why, is_shared, seconds: waited + (found.get(key)?.seconds ?? 0) });
  });
  return [...found.values()];
}

/** Round numbers along an axis of `lengthS` seconds: about five. */
export function ticks(lengthS) {
  if (!(lengthS > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(lengthS / 4));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => lengthS / each <= 6);
  return Array.from({ length: Math.floor(lengthS / step + 1e-9) + 1 }, (_, index) => index * step);
}
