import assert from "node:assert/strict";
import { test } from "node:test";
import { modelRows, size } from "../assets/dashboard/model_rows.js";

const loaded = { name: "a", state: "loaded", weight_bytes: 92 * 2 ** 20, kv_cache_bytes: 4 * 2 ** 30 };

test("sizes have their unit", () => {
  assert.deepEqual([undefined, 0, 1000, 92 * 2 ** 20, 1.5 * 2 ** 30].map(size), ["–", "–", "1 MiB", "92 MiB", "1.5 GiB"]);
});

test("a model has a row, whatever its names", () => {
  const cards = [{ id: "a", parent: null, max_model_len: 8192, headrace: loaded }, { id: "alias", parent: null, max_model_len: 8192, headrace: loaded }];
  assert.deepEqual(modelRows(cards), [{ name: "a", title: "a", isAdapter: false, cells: ["loaded", "8,192 tokens", "92 MiB", "4.0 GiB", "–"] }]);
});

test("of a model that is not loaded little is known", () => {
  const [row] = modelRows([{ id: "/models/b.gguf", parent: null, max_model_len: null, headrace: { name: "/models/b.gguf", state: "unloaded" } }]);
  assert.deepEqual(row, { name: "b.gguf", title: "/models/b.gguf", isAdapter: false, cells: ["unloaded", "–", "–", "–", "–"] });
});

test("adapters are below their model", () => {
  const cards = [
    { id: "tuned", parent: "a", headrace: { name: "a", adapter: { rank: 8, size_bytes: 3 * 2 ** 20 } } },
    { id: "a", parent: null, max_model_len: 8192, headrace: { ...loaded, adapter_memory_bytes: 2 ** 30 } },
    { id: "unread", parent: "a", headrace: { name: "a" } },
    { id: "c", parent: null, max_model_len: 100, headrace: { name: "c", state: "loaded" } },
  ];
  assert.deepEqual(modelRows(cards).map(({ name, isAdapter, cells }) => [name, isAdapter, ...cells]), [
    ["a", false, "loaded", "8,192 tokens", "92 MiB", "4.0 GiB", "1.0 GiB"],
    ["tuned", true, "adapter, rank 8", "", "3 MiB", "", ""],
    ["unread", true, "adapter", "", "–", "", ""],
    ["c", false, "loaded", "100 tokens", "–", "–", "–"],
  ]);
});
