// Jobs in words. No element is made here: tests run it without a browser.

import { count } from "../../shared/count.js";

const MIN_RUN_S = 60; // before that, nothing is called slow

const KINDS = {
  batch: "Batch",
  supervised: "Fine-tuning",
  dpo: "Fine-tuning on preferences",
  pretraining: "Training on text",
  reinforcement: "Reinforcement",
};

const STATUSES = {
  validating: "Checking its file", in_progress: "Running", finalizing: "Writing its files", cancelling: "Being canceled",
  completed: "Done", failed: "Failed", expired: "Out of time", cancelled: "Canceled",
  validating_files: "Checking its files", queued: "Waiting for its turn", running: "Training", paused: "Paused",
  succeeded: "Done",
};

const PURPOSES = {
  batch: "lines for a batch", batch_output: "a batch’s answers", "fine-tune": "examples", "fine-tune-results": "a job’s results",
};

export const kindOf = ({ kind }) => KINDS[kind] ?? kind;
export const statusOf = ({ status, is_paused: isPaused, waits_for: waitsFor }) => (waitsFor ? "Waiting" : isPaused ? "Paused" : STATUSES[status] ?? status);
export const purposeOf = ({ purpose }) => PURPOSES[purpose] ?? purpose;

/** good: it went well; bad: it did not; "" otherwise. */
export const moodOf = ({ status }) =>
  ["completed", "succeeded"].includes(status) ? "good" : ["failed", "expired"].includes(status) ? "bad" : "";

/** Such as "340 of 1,000 lines, 2 failed". */
export function progressOf({ done, total, failed, unit, has_ended: hasEnded }) {
  if (!total) return hasEnded ? "" : `no ${unit} yet`;
  return `${done.toLocaleString("en-US")} of ${count(total, unit)}${failed ? `, ${failed.toLocaleString("en-US")} failed` : ""}`;
}

/** A length of time in one unit: "40 s", "12 min", "3 h", "2 days". */
export function span(s) {
  if (s < 90) return `${Math.max(1, Math.round(s))} s`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min`;
  return s < 36 * 3600 ? `${Math.round(s / 3600)} h` : count(Math.round(s / 86400), "day");
}

/** Why it stands still or is slow, as a sentence; "" if it does not. A batch makes way for clients. */
export function stallOf({ waits_for: waitsFor, is_paused: isPaused, run_s: runS, paused_s: pausedS, left_s: leftS, has_ended: hasEnded }) {
  const isSlow = runS != null && runS >= MIN_RUN_S && pausedS > runS / 2;
  if (waitsFor || hasEnded || !(isPaused || isSlow)) return waitsFor ?? "";
  const parts = [runS == null ? "" : `has run for ${span(runS - pausedS)} of ${span(runS)}`, leftS == null ? "" : `needs about ${span(leftS)} more without them`];
  const known = parts.filter(Boolean).join(", and ");
  return `Waiting: clients’ requests come first.${known ? ` It ${known}.` : ""}`;
}

/** When it ends or ended, seen from `now`, in seconds since 1970. */
export function timeOf(job, now) {
  const { left_s: leftS, started_at: startedAt, created_at: createdAt, ended_at: endedAt, has_ended: hasEnded } = job;
  if (leftS != null && !stallOf(job)) return `about ${span(leftS)} left`;
  if (!hasEnded) return `for ${span(now - (startedAt ?? createdAt))}`;
  return endedAt == null ? "" : `${span(now - endedAt)} ago`;
}

/** Such as "1 running, 2 waiting, 14 ended". */
export function tally(jobs) {
  const paused = jobs.filter((each) => each.status === "paused" || each.is_paused).length;
  const waiting = jobs.filter((each) => each.waits_for || ["queued", "validating", "validating_files"].includes(each.status)).length;
  const ended = jobs.filter((each) => each.has_ended).length;
  const parts = [[jobs.length - paused - waiting - ended, "running"], [waiting, "waiting"], [paused, "paused"], [ended, "ended"]];
  return parts.filter(([number]) => number).map(([number, word]) => `${number} ${word}`).join(", ");
}

/** Such as "812 B", "4.0 kB" or "12 MB". */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = number;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** [value, label, mood] of what is known of the job. */
export function figuresOf({ job, now, has_keys: hasKeys }) {
  const last = job.ended_at ?? now;
  const left = job.left_s == null || stallOf(job) ? null : [`about ${span(job.left_s)}`, "left"];
  return [
    [statusOf(job), "state", moodOf(job)],
    job.total ? [`${Math.floor((100 * job.done) / job.total)} %`, `of its ${job.unit}s`] : null,
    job.has_ended ? [timeOf(job, now), "ended"] : left,
    job.started_at == null ? null : [span(last - job.started_at), job.has_ended ? "from its start to its end" : "since its start"],
    job.model == null ? null : [job.model, "model"],
    hasKeys ? [job.key, "key"] : null,
  ].filter(Boolean);
}
