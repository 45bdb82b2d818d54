import assert from "node:assert/strict";
import { test } from "node:test";
import { failuresOf, happening, keyWords, knownSince, machineRows, pointsOf, roomOf, rowsOf, usesOf, verdict } from "../assets/dashboard/server/words.js";

const FIT = { model: "m", reasons: [], running: 2, waiting: 0, slots: 8, free_tokens: 1000, request_tokens: 100, first_token_s: 0.5, gap_s: 0.05, most_quick: 3, answer_s: 15, users: 12 };
const MACHINE = { num_cores: 4, cpu_busy: 0.5, cpu_own: 0.3, memory_total: 16e9, memory_free: 8e9, memory_own: 2e9, swap_total: 0, swap_used: 0, disks: [{ label: "cache", total_bytes: 100e9, free_bytes: 50e9 }] };
const MODEL = { name: "m", state: "ready", reason: "", batch_running: 0, batch_paused: 0, batch_tokens_per_s: 0, texts_open: 0, texts_per_s: 0 };
const REPORT = { models: [MODEL], machine: MACHINE, fits: [FIT], pooling_fits: [], jobs: [], is_draining: false };
const use = (requests, read, cached, written) => ({ requests, refused: 0, prompt_tokens: read, cached_tokens: cached, output_tokens: written });
const BUCKET = { start_s: 600, read_tokens: 60, written_tokens: 120, requests: 3, refused: 1, failed: 1, most_running: 2, most_waiting: 0, cpu_busy: 0.5, keys: {}, batches: {} };

const fitOf = (fit, machine = MACHINE) => roomOf({ fits: [fit], pooling_fits: [], machine }).map(({ answer, reasons }) => [answer, reasons])[0];
const usersOf = (fit) => roomOf({ fits: [fit], pooling_fits: [], machine: MACHINE })[0].users;

test("a request is put down to its key, or to none", () => {
  assert.deepEqual(["ann", "", "without a valid key"].map(keyWords), ["key ann", "", "without a valid key"]);
});

test("room for embeddings or scores goes by the time of whole requests", () => {
  const told = (fit) => roomOf({ fits: [], pooling_fits: [{ model: "e", has_room: true, answer_s: null, texts_per_s: 0, ...fit }] })[0];
  assert.deepEqual(told({}), { model: "e", answer: "Yes", reasons: ["nothing was asked in the last five minutes"], users: "" });
  assert.deepEqual(told({ answer_s: 0.0521 }).reasons, ["requests take up to 53 ms (9 of 10)"]);
  assert.equal(told({ answer_s: 1.5 }).reasons[0], "requests take up to 1.5 s (9 of 10)");
  assert.deepEqual(told({ has_room: false, answer_s: 3 }).reasons, ["in the last five minutes, requests took up to 3.0 s (9 of 10), and 2 s is the limit"]);
  assert.equal(told({ has_room: false, answer_s: 3 }).answer, "No");
});

test("room for one more user has its reasons", () => {
  assert.deepEqual(fitOf(FIT), ["Yes", ["6 of 8 slots are free", "with one more, tokens would come every 50 ms, within the limit of 100 ms to read along", "in the last five minutes, first tokens took up to 0.5 s (9 of 10), within the limit of 2 s for a chat", "the KV cache has room for 10 more requests like the last ones"]]);
  const full = { ...FIT, reasons: ["waiting", "slots", "memory", "first_token", "open_first_token", "seen_gap", "open_gap", "gap"], waiting: 1, running: 8, free_tokens: 50, first_token_s: 3, open_first_token_s: 4, seen_gap_s: 0.111, open_gap_s: 0.15, gap_s: 0.2 };
  assert.deepEqual(fitOf(full), ["No", [
    "1 request already waits", "all 8 slots are taken (--max-num-seqs)", "the KV cache has room for 50 tokens, and a request takes about 100",
    "in the last five minutes, first tokens took up to 3.0 s (9 of 10), and 2 s is the limit for a chat",
    "open requests wait up to 4.0 s for their first token (9 of 10), and 2 s is the limit for a chat",
    "in the last five minutes, tokens came up to 111 ms apart (9 of 10), and 100 ms is the limit to read along",
    "tokens of open requests come up to 150 ms apart (9 of 10), and 100 ms is the limit to read along", "with one more, tokens would come every 200 ms, and 100 ms is the limit to read along",
  ]]);
});

test("other programs that take the processors are named where they matter", () => {
  const crowded = { ...MACHINE, cpu_busy: 0.97, cpu_own: 0.3 };
  const others = "other programs take 67 % of the processors";
  assert.equal(fitOf({ ...FIT, reasons: ["gap"], gap_s: 0.2 }, crowded)[1].at(-1), others);
  assert.ok(!fitOf({ ...FIT, reasons: ["slots"] }, crowded)[1].includes(others));
  assert.ok(!fitOf({ ...FIT, reasons: ["gap"], gap_s: 0.2 }, { ...crowded, cpu_own: 0.6 })[1].includes(others));
  assert.match(verdict({ ...REPORT, machine: crowded }).text, / Nearly full: processors, mostly by other programs\.$/);
  assert.match(verdict({ ...REPORT, machine: { ...crowded, cpu_busy: 1, memory_free: 1e9 } }).text, / Full: processors, mostly by other programs\. Nearly full: memory\.$/);
  assert.match(verdict({ ...REPORT, machine: { ...crowded, cpu_busy: 1, cpu_own: 0.9 } }).text, / Full: processors\.$/);
});

test("the number of users has its sum", () => {
  assert.match(usersOf(FIT), /^At least 12 users .* 3 × \(15 s \+ 45 s\) \/ 15 s\.$/);
  assert.equal(usersOf({ ...FIT, users: null }), "");
});

test("the machine's rows leave out what is not there", () => {
  assert.deepEqual(machineRows(MACHINE).map(({ name, text, isFull }) => [name, text, isFull]), [
    ["Processors", "50 % of 4 cores: this server 30 %, other programs 20 %", false],
    ["Memory", "8.0 GB free of 16 GB; this server takes 2.0 GB", false],
    ["Disk", "50 GB free of 100 GB (cache)", false],
  ]);
  const other = { ...MACHINE, cpu_busy: null, memory_total: null, swap_total: 4e9, swap_used: 3e9, disks: [] };
  assert.deepEqual(machineRows(other).map(({ name, isFull }) => [name, isFull]), [["Swap", true]]);
});

test("the verdict names what is wrong first", () => {
  assert.deepEqual(verdict(REPORT), { text: "2 requests running; one more user fits.", mood: "good" });
  assert.equal(verdict({ ...REPORT, fits: [{ ...FIT, running: 0 }] }).text, "Idle; one more user fits.");
  assert.deepEqual(verdict({ ...REPORT, machine: { ...MACHINE, memory_free: 1e9 } }), { text: "2 requests running; one more user fits. Nearly full: memory.", mood: "warn" });
  assert.deepEqual(verdict({ ...REPORT, models: [{ name: "m", state: "dead", reason: "it ended" }] }), { text: "Not ready: it ended.", mood: "bad" });
  assert.match(verdict({ ...REPORT, is_draining: true }).text, /^Draining/);
});

test("the verdict tells of batches, which use what no user does", () => {
  const text = (running, model) => verdict({ ...REPORT, models: [{ ...MODEL, ...model }], fits: [{ ...FIT, running }] }).text;
  assert.equal(text(0, { batch_running: 5, batch_tokens_per_s: 134.6 }), "No users; a batch is running (5 lines, 135 tokens/s); one more user fits.");
  assert.equal(text(0, { batch_running: 1 }), "No users; a batch is running (1 line); one more user fits.");
  assert.equal(text(2, { batch_paused: 5 }), "2 requests running; a batch is paused (5 lines); one more user fits.");
  const training = { kind: "supervised", status: "running" };
  assert.equal(verdict({ ...REPORT, fits: [], jobs: [training, { kind: "batch", status: "in_progress" }] }).text, "No users; a fine-tuning job is training.");
  assert.equal(verdict({ ...REPORT, fits: [], jobs: [{ ...training, waits_for: "Waiting: ..." }] }).text, "No users; a fine-tuning job is waiting.");
  const embeds = { ...REPORT, models: [{ ...MODEL, batch_running: 3 }, MODEL], fits: [] };
  assert.equal(verdict(embeds).text, "No users; a batch is running (3 lines).");
});

test("the verdict tells of embeddings, which no request that writes shows", () => {
  const text = (model, fits = []) => verdict({ ...REPORT, models: [MODEL, { ...MODEL, ...model }], fits }).text;
  assert.equal(text({ texts_per_s: 123.4, texts_open: 2 }), "123 texts/s for embeddings or scores.");
  assert.equal(text({ texts_per_s: 1.5 }), "1.5 texts/s for embeddings or scores.");
  assert.equal(text({ texts_open: 1 }), "1 request for embeddings or scores.");
  assert.equal(text({ texts_per_s: 20 }, [FIT]), "2 requests running, 20 texts/s for embeddings or scores; one more user fits.");
  assert.equal(text({}), "Idle.");
});

test("an event is a sentence", () => {
  assert.equal(happening({ kind: "started" }, true), "The server started.");
  assert.equal(happening({ kind: "engine_ended", detail: "hang", model: "m" }, true), "The engine made no progress, was killed and was restarted (m).");
  assert.equal(happening({ kind: "engine_ended", detail: "crash", model: "m" }, false), "The engine process ended unexpectedly and was restarted.");
  const end = { kind: "engine_ended", detail: "crash", cause: "the engine process ended with exit status 1", model: "m", num_continued: 3, num_failed: 0 };
  assert.equal(happening(end, false), "The engine process ended with exit status 1; it was restarted, and 3 requests continued.");
  assert.equal(happening({ ...end, num_continued: 1, num_failed: 2 }, true), "The engine process ended with exit status 1; it was restarted, and 1 request continued, 2 failed (m).");
  assert.equal(happening({ ...end, num_continued: 0 }, false), "The engine process ended with exit status 1; it was restarted, and no request was open.");
  assert.equal(happening({ kind: "killed" }, false), "The server ended without being stopped, at about this time.");
  assert.equal(happening({ kind: "other", detail: "thing" }, false), "other thing.");
});

test("it is said since when anything is known", () => {
  assert.match(knownSince({ now: 1000, known_since: 500, is_kept: false }), /^Nothing is known from before .*: without --data-dir, this history ends with the server\.$/);
  assert.match(knownSince({ now: 1000, known_since: 500, is_kept: true }), /^Nothing is known from before [^:]*:[^-]*\.$/);
  assert.equal(knownSince({ now: 90_000, known_since: 500, is_kept: false }), "");
});

test("use is added up by key, without what came from the cache in its share", () => {
  const buckets = [{ keys: { ann: use(1, 100, 80, 10), "": use(1, 10, 0, 0) }, batches: {} }, { keys: { ann: use(2, 0, 0, 60) }, batches: {} }];
  assert.deepEqual(usesOf(buckets, { has_keys: true, open: [] }).map(({ name, requests, share }) => [name, requests, share]), [["ann", 3, 0.9], ["keys without a name", 1, 0.1]]);
  assert.match(usesOf(buckets, { has_keys: false, open: [] })[1].name, /^everybody/);
});

test("batches have rows of their own, with the key that they belong to and what runs now", () => {
  const buckets = [{ keys: { ann: use(1, 10, 0, 10) }, batches: { ann: use(8, 50, 0, 10), "": use(1, 0, 0, 20) } }];
  const open = [{ key: "ann", is_batch: true, requests: 4 }, { key: "ben", is_batch: false, requests: 1 }];
  assert.deepEqual(usesOf(buckets, { has_keys: true, open }).map(({ name, isBatch, now, requests, share }) => [name, isBatch, now, requests, share]), [
    ["batches of ann", true, 4, 8, 0.6], ["ann", false, 0, 1, 0.2], ["batches of keys without a name", true, 0, 1, 0.2], ["ben", false, 1, 0, 0],
  ]);
  assert.equal(usesOf([{ keys: {}, batches: { "": use(1, 1, 0, 1) } }], { has_keys: false, open: [] })[0].name, "batches");
});

test("what is listed as refused or failed is what is counted, within the window", () => {
  const window = { width_s: 60, num_buckets: 5, buckets: [BUCKET, BUCKET] };
  const failures = [{ id: "c", at_s: 790 }, { id: "b", at_s: 601 }, { id: "a", at_s: 480 }];
  assert.deepEqual(failuresOf(window, failures, 800), { count: 4, list: failures.slice(0, 2) });
});

test("a line has a point for each bucket since the start, zeros included", () => {
  const window = { width_s: 60, num_buckets: 5, buckets: [BUCKET] };
  const points = pointsOf(window, { now: 730, known_since: 590 }, (bucket, seconds) => bucket.written_tokens / seconds);
  assert.deepEqual(points, [[-160, 0], [-100, 2], [-40, 0], [0, 0]]);
  assert.deepEqual(pointsOf(window, { now: 730, known_since: 590 }, (bucket) => bucket.cpu_busy, null), [[-100, 0.5]]);
});

test("rows add up buckets of the same age", () => {
  const window = { width_s: 60, buckets: [{ ...BUCKET, start_s: 0, most_running: 5, batches: { ann: { ...use(5, 0, 0, 0), refused: 1 } } }, BUCKET, { ...BUCKET, start_s: 660, read_tokens: 0, written_tokens: 0, requests: 0, refused: 0, failed: 0 }] };
  assert.deepEqual(rowsOf(window, 700, 10), [
    { from: 600, to: 0, requests: 3, refused: 2, read: 60, written: 120, lines: 0, failedLines: 0, running: 2, waiting: 0, cpu: 0.5 },
    { from: 1200, to: 600, requests: 3, refused: 2, read: 60, written: 120, lines: 5, failedLines: 1, running: 5, waiting: 0, cpu: 0.5 },
  ]);
});
