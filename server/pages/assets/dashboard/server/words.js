// The server's state in words and rows. No element is made here: tests run it without a browser.

import { count } from "../../shared/count.js";
import { bytes, span } from "../jobs/words.js";
import { engineEnd } from "../words.js";

const FULL = 0.9; // share of a memory or disk from which it is called nearly full
const ALL = 0.98; // share from which it is called full
const percent = (share) => `${Math.round(100 * share)} %`;

const REASONS = {
  waiting: ({ waiting }) => `${count(waiting, "request")} already ${waiting === 1 ? "waits" : "wait"}`,
  slots: ({ slots }) => `all ${slots} slots are taken (--max-num-seqs)`,
  memory: ({ free_tokens: free, request_tokens: tokens }) => `the KV cache has room for ${count(free, "token")}, and a request takes about ${tokens.toLocaleString("en-US")}`,
  first_token: ({ first_token_s: first }) => `in the last five minutes, first tokens took up to ${first.toFixed(1)} s (9 of 10), and 2 s is the limit for a chat`,
  open_first_token: ({ open_first_token_s: first }) => `open requests wait up to ${first.toFixed(1)} s for their first token (9 of 10), and 2 s is the limit for a chat`,
  seen_gap: ({ seen_gap_s: gap }) => `in the last five minutes, tokens came up to ${Math.round(gap * 1000)} ms apart (9 of 10), and 100 ms is the limit to read along`,
  open_gap: ({ open_gap_s: gap }) => `tokens of open requests come up to ${Math.round(gap * 1000)} ms apart (9 of 10), and 100 ms is the limit to read along`,
  gap: ({ gap_s: gap }) => `with one more, tokens would come every ${Math.round(gap * 1000)} ms, and 100 ms is the limit to read along`,
};

/** Whether the processors are full, and mostly with other programs. */
const isCrowded = ({ cpu_busy: busy, cpu_own: own }) => busy != null && busy >= FULL && busy - own > own;

const SLOW = ["first_token", "open_first_token", "seen_gap", "open_gap", "gap"]; // reasons that other programs may have caused

/** Whether one more user fits, and why: [answer, reasons]. */
function fitOf(fit, machine) {
  if (fit.reasons.length) {
    const others = isCrowded(machine) && fit.reasons.some((reason) => SLOW.includes(reason)) ? [`other programs take ${percent(machine.cpu_busy - machine.cpu_own)} of the processors`] : [];
    return ["No", [...fit.reasons.map((reason) => REASONS[reason](fit)), ...others]];
  }
  const parts = [`${fit.slots - fit.running} of ${fit.slots} slots are free`];
  if (fit.gap_s) parts.push(`with one more, tokens would come every ${Math.round(fit.gap_s * 1000)} ms, within the limit of 100 ms to read along`);
  if (fit.first_token_s != null) parts.push(`in the last five minutes, first tokens took up to ${fit.first_token_s.toFixed(1)} s (9 of 10), within the limit of 2 s for a chat`);
  if (fit.free_tokens) parts.push(`the KV cache has room for ${count(Math.floor(fit.free_tokens / Math.max(1, fit.request_tokens)), "more request")} like the last ones`);
  return ["Yes", parts];
}

/** The same for a model for embeddings or scores. */
function poolingFitOf({ has_room: hasRoom, answer_s: answer }) {
  if (!hasRoom) return ["No", [`in the last five minutes, requests took up to ${answer.toFixed(1)} s (9 of 10), and 2 s is the limit`]];
  return ["Yes", [answer == null ? "nothing was asked in the last five minutes" : `requests take up to ${answer < 1 ? `${Math.ceil(answer * 1000)} ms` : `${answer.toFixed(1)} s`} (9 of 10)`]];
}

/** Whether one more user fits on each model: [{model, answer, reasons, users}]. */
export const roomOf = ({ fits, pooling_fits: poolingFits, machine }) => [
  ...fits.map((fit) => ({ model: fit.model, found: fitOf(fit, machine), users: usersOf(fit) })),
  ...poolingFits.map((fit) => ({ model: fit.model, found: poolingFitOf(fit), users: "" })),
].map(({ model, found: [answer, reasons], users }) => ({ model, answer, reasons, users }));

/** How many users fit altogether, as a sentence; "" before that is known. */
function usersOf({ users, most_quick: most, answer_s: answerS }) {
  if (!users) return "";
  return `At least ${count(users, "user")} in all: it has answered ${most} at once at reading speed, and an answer takes ${span(answerS)} (mean of the last five minutes with answers); with 45 s to read and write between answers, ${most} × (${span(answerS)} + 45 s) / ${span(answerS)}.`;
}

/** Rows of the machine's load: {name, share, text, isFull}. What the system does not tell, and swap that is not there, is left out. */
export function machineRows({ num_cores: cores, cpu_busy: busy, cpu_own: own, memory_total: total, memory_free: free, memory_own: ownBytes, swap_total: swap, swap_used: swapUsed, disks }) {
  const rows = [];
  if (busy != null) rows.push({ name: "Processors", share: busy, isFull: busy >= FULL, text: `${percent(busy)} of ${count(cores, "core")}: this server ${percent(own)}, other programs ${percent(busy - own)}` });
  if (total && free != null) rows.push({ name: "Memory", share: 1 - free / total, isFull: 1 - free / total >= FULL, text: `${bytes(free)} free of ${bytes(total)}${ownBytes ? `; this server takes ${bytes(ownBytes)}` : ""}` });
  if (swap) rows.push({ name: "Swap", share: swapUsed / swap, isFull: swapUsed / swap >= 0.5, text: `${bytes(swapUsed)} used of ${bytes(swap)}` });
  for (const { label, total_bytes: all, free_bytes: left } of disks) rows.push({ name: "Disk", share: 1 - left / all, isFull: 1 - left / all >= FULL, text: `${bytes(left)} free of ${bytes(all)} (${label})` });
  return rows;
}

/** The first thing to know, in one or two sentences: {text, mood}. */
export function verdict(report) {
  const { models, machine, fits, jobs, is_draining: isDraining } = report;
  const broken = models.filter(({ state }) => state === "dead" || state === "loading");
  if (isDraining) return { text: "Draining: running requests are finished, and new ones are refused.", mood: "bad" };
  if (broken.length === models.length && broken.length) return { text: `Not ready: ${broken[0].reason || broken[0].state}.`, mood: "bad" };
  const full = fullWords(machine);
  const [running, waiting] = ["running", "waiting"].map((name) => fits.reduce((sum, fit) => sum + fit[name], 0));
  const batch = batchOf(models);
  const texts = textsOf(models);
  const users = [running + waiting ? `${count(running, "request")} running${waiting ? `, ${waiting} waiting` : ""}` : "", texts].filter(Boolean);
  const trainings = jobs.filter(({ kind }) => kind !== "batch");
  const areIn = (list, what) => (list.length ? `${list.length === 1 ? "a fine-tuning job is" : `${list.length} fine-tuning jobs are`} ${what}` : "");
  const stalled = trainings.filter((job) => job.waits_for);
  const work = [batch, areIn(trainings.filter((job) => job.status === "running" && !job.waits_for), "training"), areIn(stalled, "waiting")].filter(Boolean);
  const now = [users.join(", ") || (work.length ? "No users" : "Idle"), ...work].join("; ");
  const rooms = roomOf(report);
  const room = rooms.map(({ model, answer, reasons }) => `${rooms.length > 1 ? `${model}: ` : ""}${answer === "Yes" ? "one more user fits" : `no room for one more user: ${reasons[0]}`}`);
  const parts = [[now, ...room].join("; "), ...full].filter(Boolean);
  return { text: `${parts.join(". ")}.`, mood: full.length || rooms.some(({ answer }) => answer === "No") ? "warn" : "good" };
}

/** What of the machine is full or nearly so: at most two sentences without their periods. */
function fullWords(machine) {
  const rows = machineRows(machine).filter(({ isFull }) => isFull);
  const nameOf = ({ name }) => (name === "Processors" && isCrowded(machine) ? "processors, mostly by other programs" : name.toLowerCase());
  const sentence = (start, list) => (list.length ? [`${start}: ${list.map(nameOf).join("; ")}`] : []);
  return [...sentence("Full", rows.filter(({ share }) => share >= ALL)), ...sentence("Nearly full", rows.filter(({ share }) => share < ALL))];
}

/** What models for embeddings and scores do, as a part of a sentence; "" if nothing. */
function textsOf(models) {
  const [open, rate] = ["texts_open", "texts_per_s"].map((name) => models.reduce((sum, model) => sum + model[name], 0));
  if (rate) return `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} texts/s for embeddings or scores`;
  return open ? `${count(open, "request")} for embeddings or scores` : "";
}

/** What batches do, as a part of a sentence; "" if none has a line in an engine that runs or is paused. */
function batchOf(models) {
  const [running, paused, rate] = ["batch_running", "batch_paused", "batch_tokens_per_s"].map((name) => models.reduce((sum, model) => sum + model[name], 0));
  if (running) return `a batch is running (${count(running, "line")}${rate >= 0.5 ? `, ${Math.round(rate)} tokens/s` : ""})`;
  return paused ? `a batch is paused (${count(paused, "line")})` : "";
}

const HAPPENINGS = {
  started: () => "The server started",
  stopped: () => "The server was stopped",
  killed: () => "The server ended without being stopped, at about this time",
  gave_up: ({ detail }) => `The server ends itself: ${detail.replace(/\.$/, "")}`,
  engine_ended: ({ detail, cause, num_continued: continued, num_failed: failed }) =>
    `${engineEnd(detail, cause)}${cause ? `, and ${continued + failed ? `${count(continued, "request")} continued${failed ? `, ${failed} failed` : ""}` : "no request was open"}` : ""}`,
};

export const happening = (each, hasModels) => `${(HAPPENINGS[each.kind] ?? (({ kind, detail }) => `${kind} ${detail}`.trim()))(each)}${hasModels && each.model ? ` (${each.model})` : ""}.`;

const NO_KEY = "without a valid key"; // as the server calls requests that had none

export const keyWords = (key) => (key && key !== NO_KEY ? `key ${key}` : key);

/** Since when something is known, as a sentence; "" if that is longer than a day. */
export function knownSince({ now, known_since: since, is_kept: isKept }) {
  if (now - since > 86400) return "";
  return `Nothing is known from before ${new Date(since * 1000).toLocaleString()}${isKept ? "." : ": without --data-dir, this history ends with the server."}`;
}

/** Use by key, and by the batches of each key, over the buckets, the largest first: [{name, isBatch, now, requests, refused, read, cached, written, share}]. */
export function usesOf(buckets, { has_keys: hasKeys, open }) {
  const found = new Map();
  const sumOf = (key, isBatch) => {
    const name = useName(key, isBatch, hasKeys);
    if (!found.has(name)) found.set(name, { name, isBatch, now: 0, requests: 0, refused: 0, read: 0, cached: 0, written: 0 });
    return found.get(name);
  };
  for (const { keys, batches } of buckets) {
    for (const [uses, isBatch] of [[keys, false], [batches, true]]) {
      for (const [key, use] of Object.entries(uses)) {
        const sum = sumOf(key, isBatch);
        sum.requests += use.requests;
        sum.refused += use.refused;
        sum.read += use.prompt_tokens;
        sum.cached += use.cached_tokens;
        sum.written += use.output_tokens;
      }
    }
  }
  for (const { key, is_batch: isBatch, requests } of open) sumOf(key, isBatch).now += requests;
  const tokens = ({ read, cached, written }) => read - cached + written; // what had to be computed
  const all = [...found.values()].reduce((total, each) => total + tokens(each), 0);
  return [...found.values()].map((each) => ({ ...each, share: all ? tokens(each) / all : 0 })).sort((a, b) => b.share - a.share || b.requests - a.requests);
}

function useName(key, isBatch, hasKeys) {
  const name = key || (hasKeys ? "keys without a name" : "");
  return isBatch ? (name ? `batches of ${name}` : "batches") : name || "everybody (the server has no keys)";
}

/** The refused and failed requests within a window: {count, list}; the list has the newest, at most as many as were kept. */
export function failuresOf({ width_s: width, num_buckets: number, buckets }, failures, now) {
  const isWithin = ({ at_s: at }) => Math.floor(at / width) * width > now - width * number;
  return { count: buckets.reduce((total, { refused, failed }) => total + refused + failed, 0), list: failures.filter(isWithin) };
}

/** Points of a value of each bucket since the first, zeros where one is left out: [[seconds before now, value]]. */
export function pointsOf({ width_s: width, num_buckets: number, buckets }, { now, known_since: knownSinceS }, value, missing = 0) {
  const byStart = new Map(buckets.map((bucket) => [bucket.start_s, bucket]));
  const last = Math.floor(now / width) * width;
  const points = [];
  for (let start = last - (number - 1) * width; start <= last; start += width) {
    if (start + width <= knownSinceS) continue;
    const bucket = byStart.get(start);
    const found = bucket ? value(bucket, Math.min(width, Math.max(1, now - start))) : missing;
    if (found != null) points.push([Math.min(0, start + width / 2 - now), found]);
  }
  return points;
}

/** Sums of `size` buckets each, newest first, those without a request or step left out. */
export function rowsOf({ width_s: width, buckets }, now, size) {
  const groups = new Map();
  for (const bucket of buckets) {
    const age = Math.floor((now - bucket.start_s) / (width * size));
    groups.set(age, [...(groups.get(age) ?? []), bucket]);
  }
  const sum = (list, name) => list.reduce((total, each) => total + each[name], 0);
  const lines = (list, name) => list.reduce((total, { batches }) => total + sum(Object.values(batches), name), 0);
  const most = (list, name) => list.reduce((top, each) => Math.max(top, each[name] ?? 0), 0);
  return [...groups].sort(([a], [b]) => a - b).map(([age, list]) => ({
    from: (age + 1) * width * size, to: age * width * size,
    requests: sum(list, "requests"), refused: sum(list, "refused") + sum(list, "failed"), read: sum(list, "read_tokens"), written: sum(list, "written_tokens"),
    lines: lines(list, "requests"), failedLines: lines(list, "refused"), running: most(list, "most_running"), waiting: most(list, "most_waiting"), cpu: most(list, "cpu_busy"),
  })).filter(({ requests, lines: numLines, read, written }) => requests || numLines || read || written);
}
