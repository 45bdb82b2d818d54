import assert from "node:assert/strict";
import { test } from "node:test";
import { amountOf, changeOf, fitOf, isOpen, namesIn, stateOf, statusOf } from "../assets/dashboard/models/words.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const PULL = { state: "running", stage: "download owner/repo", done: 0, total: 0, unit: "B", free_bytes: null, error: null, size_bytes: null, memory: null };

test("a served model's state is told with its progress", () => {
  assert.deepEqual(stateOf({ state: "loaded" }), { text: "Loaded", mood: "good" });
  assert.deepEqual(stateOf({ state: "loading", stage: "pack weights", progress: 0.42 }), { text: "Loading: pack weights (42 %)", mood: "" });
  assert.deepEqual(stateOf({ state: "failed" }), { text: "Failed", mood: "bad" });
});

test("a model can be loaded or unloaded if the server can do it, and not while it is on its way out", () => {
  assert.deepEqual(["unloaded", "failed", "loaded", "loading", "unloading"].map((state) => changeOf({ state, memory_bytes: 1 })), ["load", "load", "unload", "unload", null]);
  assert.equal(changeOf({ state: "loaded" }), null);
});

test("a fetch says what it does, or how it ended", () => {
  const texts = ["", "import libraries", "look up owner/repo", "unpack x.whl", "verify", "check that it can be served", "wait for other pulls", "something new"].map((stage) => statusOf({ ...PULL, stage }).text);
  assert.deepEqual(texts, ["Starting", "Starting", "Looking it up", "Unpacking", "Checking its hashes", "Checking whether it fits", "Waiting for other models", "something new"]);
  assert.deepEqual(["complete", "failed", "stopped"].map((state) => statusOf({ ...PULL, state })), [{ text: "In the cache", mood: "good" }, { text: "Failed", mood: "bad" }, { text: "Stopped", mood: "" }]);
  assert.deepEqual(["waiting", "running", "complete", "failed", "stopped"].filter((state) => isOpen({ state })), ["waiting", "running"]);
});

test("its amount has the speed and the time that is left, where they are known", () => {
  assert.equal(amountOf(PULL), "");
  assert.equal(amountOf({ ...PULL, done: 45 * MIB }), "45 MiB so far");
  assert.equal(amountOf({ ...PULL, done: 45 * MIB, total: 98 * MIB }), "45 MiB of 98 MiB");
  assert.equal(amountOf({ ...PULL, done: 45 * MIB, total: 98 * MIB }, 3 * MIB), "45 MiB of 98 MiB, 3 MiB/s, about 18 s left");
  assert.equal(amountOf({ ...PULL, done: 98 * MIB, total: 98 * MIB }, 3 * MIB), "98 MiB of 98 MiB");
  assert.equal(amountOf({ ...PULL, unit: "wheels", done: 2, total: 6 }), "2 of 6 wheels");
  assert.equal(amountOf({ ...PULL, state: "complete", size_bytes: 98 * MIB }), "98 MiB");
});

test("whether it fits is told as soon as its size is known, and for certain at the end", () => {
  assert.equal(fitOf(PULL), null);
  assert.equal(fitOf({ ...PULL, free_bytes: 3 * GIB }).text, "3.0 GiB of memory are free beside what is served now.");
  assert.equal(fitOf({ ...PULL, free_bytes: 3 * GIB, total: 98 * MIB }).text, "Its files have 98 MiB; 3.0 GiB of memory are free beside what is served now.");
  assert.deepEqual(fitOf({ ...PULL, free_bytes: 3 * GIB, total: 5 * GIB }), { text: "Its files have 5.0 GiB, and 3.0 GiB of memory are free: beside what is served now it does not fit.", mood: "bad" });
  assert.deepEqual(fitOf({ ...PULL, state: "complete", memory: { severity: "ok", message: "about 1 GiB of weights" } }), { text: "It fits into memory: about 1 GiB of weights.", mood: "good" });
  assert.equal(fitOf({ ...PULL, state: "complete", memory: { severity: "problem", message: "unknown architecture" } }).mood, "bad");
});

test("patterns that name one model are offered", () => {
  assert.deepEqual(namesIn(["demo", "demo*", "owner/?", "owner/[ab]", "owner/repo:Q4_K_M"]), ["demo", "owner/repo:Q4_K_M"]);
});
