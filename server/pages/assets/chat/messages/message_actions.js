// What can be done with a message.

import { count } from "../../shared/count.js";
import { h } from "../../shared/dom.js";
import { answer, showRequestOf, stopNodes } from "../answers/answering.js";
import { askKey } from "../dialogs.js";
import { elementOf, show } from "../drawing.js";
import { say } from "../notices.js";
import { conversationOfId, page } from "../page.js";
import { connect } from "../server_state.js";
import { addRecords, recordOf } from "../storage/records.js";
import { saveHead, saveMessages, saveRemoval } from "../storage/saving.js";
import { addNode, nodesFrom, path, removeNode, showVersion } from "../tree.js";

/** As messageView takes them. */
export const messageActions = {
  showVersion(id) {
    showVersion(page.current, id);
    saveHead(page.current, ["leafId"]);
    show({ isSamePlace: true });
  },
  edit,
  answer: (node) => answer(page.current, node.id),
  regenerate: (node) => answer(page.current, node.parentId),
  retry(node) {
    const { parentId } = node;
    if (node.content || node.reasoning) return answer(page.current, parentId); // what has arrived stays, as a version
    const removed = removeNode(page.current, node.id);
    if (answer(page.current, parentId)) saveRemoval(page.current, removed.map(({ id }) => id));
    else restore(page.current, [removed[0]]);
  },
  showRequest: showRequestOf,
  async enterKey(node) {
    if (await askKey(node.error.keyReason ?? "This server asks for a key.")) messageActions.retry(node), connect(askKey);
  },
  remove,
  answerCalls(node, results) {
    let parentId = node.id;
    const nodes = results.map(({ call, content }) => {
      const added = addNode(page.current, parentId, { role: "tool", content, toolCallId: call.id, toolName: call.name });
      parentId = added.id;
      return added;
    });
    if (answer(page.current, parentId, nodes)) return;
    removeNode(page.current, nodes[0].id);
    show({ isSamePlace: true });
  },
};

export function editLastQuestion() {
  const last = path(page.current).findLast((node) => node.role === "user");
  if (last) edit(last);
}

/** Delete a message and all below it, versions that are not shown among them. */
function remove(node) {
  const conversation = page.current;
  const { leafId } = conversation;
  const nodes = nodesFrom(conversation, node.id);
  stopNodes(nodes);
  const records = nodes.map((each) => recordOf(conversation, each.isRunning ? { ...each, isRunning: false, finishReason: "stopped" } : each));
  removeNode(conversation, node.id);
  saveRemoval(conversation, records.map(({ id }) => id));
  saveHead(conversation, ["leafId"]);
  show({ isSamePlace: true });
  say(`Deleted ${count(records.length, "message")}.`, () => {
    if (conversationOfId(conversation.id) !== conversation) return say("The conversation of these messages was deleted meanwhile.");
    restore(conversation, records);
    conversation.leafId = leafId;
    saveMessages(conversation, records.map(({ id }) => conversation.nodes[id]));
    show({ isSamePlace: true });
  });
}

function restore(conversation, records) {
  addRecords(conversation, records);
  show({ isSamePlace: true });
}

/** Put a field in a question's place; what is sent from there is another version of it. */
function edit(node) {
  const field = h("textarea", { class: "edit", "aria-label": "Edit the message" });
  field.value = node.content;
  const element = elementOf(node);
  const close = () => {
    element.isEdited = false;
    element.update();
    element.querySelector("button.edit-button")?.focus();
  };
  const done = () => {
    const sibling = addNode(page.current, node.parentId, { role: "user", content: field.value.trim(), attachments: node.attachments });
    if (answer(page.current, sibling.id, [sibling])) return;
    removeNode(page.current, sibling.id);
    show({ isSamePlace: true });
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), done();
    if (event.key === "Escape") event.stopPropagation(), close();
  });
  const buttons = h("div", { class: "row end" }, h("button", { onclick: close }, "Cancel"), h("button", { class: "primary", onclick: done }, "Send"));
  element.isEdited = true;
  element.querySelector(".plain").replaceChildren(field, buttons);
  field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
  field.focus();
}
