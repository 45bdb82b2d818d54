import assert from "node:assert/strict";
import { test } from "node:test";
import { canChat } from "../assets/chat/capabilities.js";

test("models that compute embeddings are not offered for a chat", () => {
  assert.equal(canChat({ id: "a", headrace: { capabilities: ["completion", "tools"] } }), true);
  assert.equal(canChat({ id: "b", headrace: { capabilities: ["embedding"] } }), false);
  assert.equal(canChat({ id: "c", headrace: { capabilities: ["rerank", "score"] } }), false);
  assert.equal(canChat({ id: "d", headrace: { state: "loading" } }), true);
  assert.equal(canChat({ id: "e" }), true);
});
