import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, figuresOf, kindOf, moodOf, progressOf, purposeOf, span, stallOf, statusOf, tally, timeOf } from "../assets/dashboard/jobs/words.js";

const JOB = { kind: "batch", status: "in_progress", done: 0, total: 0, failed: 0, unit: "line", has_ended: false, created_at: 1000, started_at: null, ended_at: null, left_s: null };

test("a job's kind, state and files have plain words", () => {
  assert.deepEqual(["batch", "supervised", "new-kind"].map((kind) => kindOf({ kind })), ["Batch", "Fine-tuning", "new-kind"]);
  assert.deepEqual(["queued", "succeeded", "new"].map((status) => statusOf({ status })), ["Waiting for its turn", "Done", "new"]);
  assert.deepEqual(["succeeded", "failed", "running"].map((status) => moodOf({ status })), ["good", "bad", ""]);
  assert.deepEqual(["fine-tune", "vision"].map((purpose) => purposeOf({ purpose })), ["examples", "vision"]);
});

test("progress counts lines or steps, and those that failed", () => {
  assert.equal(progressOf(JOB), "no line yet");
  assert.equal(progressOf({ ...JOB, done: 340, total: 1000, failed: 2 }), "340 of 1,000 lines, 2 failed");
  assert.equal(progressOf({ ...JOB, unit: "step", done: 1, total: 1 }), "1 of 1 step");
  assert.equal(progressOf({ ...JOB, has_ended: true }), "");
});

test("times are told in one unit", () => {
  assert.deepEqual([0.2, 40, 89, 90, 1800, 5400, 90_000, 200_000].map(span), ["1 s", "40 s", "89 s", "2 min", "30 min", "2 h", "25 h", "2 days"]);
  assert.equal(timeOf({ ...JOB, left_s: 130 }, 2000), "about 2 min left");
  assert.equal(timeOf(JOB, 1060), "for 60 s");
  assert.equal(timeOf({ ...JOB, started_at: 1050 }, 1060), "for 10 s");
  assert.equal(timeOf({ ...JOB, has_ended: true, ended_at: 1000 }, 1600), "10 min ago");
});

test("a job's figures leave out what is not known yet", () => {
  const of = (job, rest = {}) => figuresOf({ job: { ...JOB, ...job }, now: 2000, ...rest });
  assert.deepEqual(of({}), [[statusOf(JOB), "state", ""]]);
  assert.deepEqual(of({ total: 200, done: 50, left_s: 130, started_at: 1940, model: "m", key: "ann" }, { has_keys: true }).slice(1),
    [["25 %", "of its lines"], ["about 2 min", "left"], ["60 s", "since its start"], ["m", "model"], ["ann", "key"]]);
  assert.deepEqual(of({ has_ended: true, started_at: 1000, ended_at: 1060 }).slice(1), [["16 min ago", "ended"], ["60 s", "from its start to its end"]]);
});

test("a batch that clients hold up says so", () => {
  const paused = { ...JOB, is_paused: true, run_s: 1020, paused_s: 960, left_s: 130, started_at: 980, total: 400, done: 100 };
  const line = "Waiting: clients’ requests come first. It has run for 60 s of 17 min, and needs about 2 min more without them.";
  assert.equal(statusOf(paused), "Paused");
  for (const job of [paused, { ...paused, is_paused: false }]) { // as it is between two of its pauses
    assert.equal(stallOf(job), line);
    assert.equal(timeOf(job, 2000), "for 17 min");
    assert.ok(!figuresOf({ job, now: 2000 }).some(([, label]) => label === "left"));
  }
  assert.equal(stallOf({ ...paused, left_s: null }), "Waiting: clients’ requests come first. It has run for 60 s of 17 min.");
  assert.equal(stallOf({ ...paused, run_s: null, paused_s: null }), "Waiting: clients’ requests come first. It needs about 2 min more without them.");
  assert.equal(stallOf({ ...paused, run_s: null, paused_s: null, left_s: null }), "Waiting: clients’ requests come first.");
  assert.equal(stallOf({ ...paused, is_paused: false, paused_s: 500 }), "");
  assert.equal(stallOf({ ...paused, has_ended: true }), "");
  assert.equal(tally([paused, JOB]), "1 running, 1 paused");
});

test("a batch that no client holds up does not blame them", () => {
  const slow = { ...JOB, is_paused: false, started_at: 0, left_s: null, total: 400 }; // it started 8 h ago
  for (const run of [{ run_s: null, paused_s: null }, { run_s: 60, paused_s: 0 }, { run_s: 59, paused_s: 59 }]) assert.equal(stallOf({ ...slow, ...run }), "");
});

test("a job that is stopped for requests waits, whatever it does next", () => {
  const job = { ...JOB, kind: "supervised", status: "validating_files", waits_for: "Waiting: requests keep the server busy" };
  assert.deepEqual([statusOf(job), stallOf(job), tally([job, { ...job, status: "running" }])], ["Waiting", job.waits_for, "2 waiting"]);
  assert.equal(statusOf({ ...job, waits_for: null }), "Checking its files");
});

test("jobs are counted by what they do", () => {
  const jobs = ["in_progress", "queued", "validating_files", "paused", "failed"].map((status) => ({ ...JOB, status, has_ended: status === "failed" }));
  assert.equal(tally(jobs), "1 running, 2 waiting, 1 paused, 1 ended");
  assert.equal(tally([]), "");
});

test("sizes have two digits and a unit", () => {
  assert.deepEqual([0, 999, 1000, 12_345_678, 4.2e12].map(bytes), ["0 B", "999 B", "1.0 kB", "12 MB", "4.2 TB"]);
});
