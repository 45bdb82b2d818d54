import assert from "node:assert/strict";
import { test } from "node:test";
import { emptyAnswer } from "../assets/chat/answers/answer.js";
import { parseExport } from "../assets/chat/transfer.js";
import { addNode, newConversation, path } from "../assets/chat/tree.js";

const read = (conversation) => parseExport(JSON.stringify({ format: "headrace.conversations.v1", conversations: [conversation] }));

/** A conversation with everything in it that an answer may have. */
function whole() {
  const conversation = newConversation();
  const question = addNode(conversation, null, { role: "user", content: "hi", attachments: [{ name: "a", text: "b" }] });
  addNode(conversation, question.id, {
    ...emptyAnswer("m"), content: "x", finishReason: "stop", stats: { numTokens: 1, firstTokenMs: null },
    toolCalls: [{ id: "1", name: "f", arguments: "{}" }],
    tokens: [{ text: "x", probability: 0.5, others: [{ text: "y", probability: 0.1 }] }],
  });
  return conversation;
}

test("what an answer may have is read back", () => {
  const conversation = whole();
  const [again] = read(conversation);
  const withoutIds = ({ id, parentId, childIds, ...node }) => node;
  assert.deepEqual(path(again).map(withoutIds), path(conversation).map(withoutIds));
  const ids = new Set([...path(again), ...path(conversation)].map(({ id }) => id));
  assert.equal(ids.size, 4); // it may be imported twice
});

test("an answer that was arriving has been stopped", () => {
  const conversation = whole();
  Object.assign(path(conversation)[1], { isRunning: true, finishReason: null });
  const [, answer] = path(read(conversation)[0]);
  assert.deepEqual([answer.isRunning, answer.finishReason], [undefined, "stopped"]);
});

const FAULTS = {
  "no system prompt": (conversation) => delete conversation.system,
  "a schema that is no text": (conversation) => (conversation.schema = { type: "object" }),
  "tools that are no text": (conversation) => (conversation.tools = []),
  "a title that is none": (conversation) => (conversation.title = null),
  "a leaf that is not there": (conversation) => (conversation.leafId = "none"),
  "a root that is there twice": (conversation) => conversation.rootIds.push(conversation.rootIds[0]),
  "a circle that no root leads to": (conversation) => {
    for (const [id, other] of [["p", "q"], ["q", "p"]]) {
      conversation.nodes[id] = { id, parentId: other, childIds: [other], role: "user", content: "", createdMs: 1 };
    }
    conversation.leafId = "p";
  },
  "a role of another program": (conversation) => (path(conversation)[0].role = "system"),
  "an attachment without a text": (conversation) => (path(conversation)[0].attachments = [{ name: "a" }]),
  "a call without arguments": (conversation) => (path(conversation)[1].toolCalls = [{ id: "1", name: "f" }]),
  "tokens without texts": (conversation) => (path(conversation)[1].tokens = [{ probability: 1, others: [] }]),
  "a figure that is a text": (conversation) => (path(conversation)[1].stats = { tokensPerSecond: "fast" }),
  "an error without words": (conversation) => (path(conversation)[1].error = {}),
};

for (const [name, damage] of Object.entries(FAULTS)) {
  test(`refused: ${name}`, () => {
    const conversation = whole();
    damage(conversation);
    assert.throws(() => read(conversation), /A conversation in the file is damaged/);
  });
}
