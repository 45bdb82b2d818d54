import assert from "node:assert/strict";
import { test } from "node:test";
import { fittingModel, modelGroups, modelNote, shortened } from "../assets/chat/models/model_list.js";

const card = (id, { name = id, parent = null, limit = 4096, state = "loaded", capabilities = ["completion"] } = {}) => ({
  id, parent, max_model_len: limit, headrace: { name, state, capabilities },
});
const CARDS = [
  card("base"), card("alias", { name: "base" }), card("big", { limit: 32768, state: "unloaded" }), card("embedder", { capabilities: ["embedding"] }),
  card("ft:base:headrace:support:ab12", { name: "base", parent: "base" }),
  card("ft:base:headrace:support:ab12:ckpt-step-20", { name: "base", parent: "base" }),
  card("ft:base:headrace::cd34", { name: "base", parent: "base" }), card("poems", { name: "base", parent: "base" }),
];

test("adapters stand under their base, which is offered once, and what cannot chat is not", () => {
  assert.deepEqual(modelGroups(CARDS).map(({ name, members }) => [name, ...members.map(({ label }) => label)]), [
    ["base", "base", "support:ab12", "support:ab12, step 20", "cd34", "poems"], ["big", "big"],
  ]);
  assert.deepEqual(modelGroups(CARDS)[0].members.filter(({ isCheckpoint }) => isCheckpoint).map(({ id }) => id), ["ft:base:headrace:support:ab12:ckpt-step-20"]);
  assert.deepEqual(modelGroups([]), []);
});

test("a long name loses its middle", () => {
  assert.equal(shortened("short"), "short");
  const name = shortened("Qwen3-30B-A3B-Instruct-2507-GGUF-UD-Q4_K_XL.gguf", 20);
  assert.equal(name, "Qwen3-30B-…K_XL.gguf");
  assert.equal(name.length, 20);
});

test("a model's note tells its context, and that it is not loaded", () => {
  assert.equal(modelNote(card("a", { limit: 32768 })), "32k tokens");
  assert.equal(modelNote(card("a", { limit: 1_000_000 })), "977k tokens");
  assert.equal(modelNote(card("a", { limit: 2 << 20 })), "2M tokens");
  assert.equal(modelNote(card("a", { limit: 512, state: "unloaded" })), "512 tokens, not loaded");
  assert.equal(modelNote(card("a", { limit: null, state: "failed" })), "failed");
});

test("the model that fits has the smallest context that is enough, and is loaded if there is one", () => {
  assert.equal(fittingModel(CARDS, 100).id, "base");
  assert.equal(fittingModel(CARDS, 5000).id, "big");
  assert.equal(fittingModel([...CARDS, card("loaded", { limit: 65536 })], 5000).id, "loaded");
  assert.equal(fittingModel(CARDS, 50_000), null);
});
