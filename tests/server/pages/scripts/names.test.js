import assert from "node:assert/strict";
import { test } from "node:test";
import { engineNames } from "../assets/shared/engines.js";
import { shortNames } from "../assets/shared/names.js";

const card = (id, name, parent = null) => ({ id, parent, root: "/models/weights.gguf", headrace: { name } });

test("each model is offered once, by its first name, whatever file it is of", () => {
  const cards = [card("fast", "fast"), card("alias", "fast"), card("good", "good")];
  assert.deepEqual(engineNames(cards), ["fast", "good"]);
});

test("a caller who may not use the first name gets the next", () => {
  assert.deepEqual(engineNames([card("alias", "fast")]), ["alias"]);
});

test("adapters have no engine of their own", () => {
  assert.deepEqual(engineNames([card("base", "base"), card("tuned", "base", "base")]), ["base"]);
});

test("names are as short as they can be told apart", () => {
  assert.deepEqual(shortNames(["demo", "owner/repo", "/models/a.gguf"]), ["demo", "repo", "a.gguf"]);
  assert.deepEqual(shortNames(["/old/model.gguf", "/new/model.gguf", "x"]), ["old/model.gguf", "new/model.gguf", "x"]);
  assert.deepEqual(shortNames(["model", "/a/model"]), ["model", "a/model"]);
  assert.deepEqual(shortNames(["/model", "model"]), ["/model", "model"]);
  assert.deepEqual(shortNames(["folder/"]), ["folder/"]);
  assert.deepEqual(shortNames([]), []);
});
