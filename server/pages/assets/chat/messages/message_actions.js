// What can be done with a message. Nothing is changed while an answer arrives.

import { h } from "../../shared/dom.js";
import { answer, showRequestOf } from "../answers/answering.js";
import { askKey } from "../dialogs.js";
import { elementOf, show } from "../drawing.js";
import { keep, page } from "../page.js";
import { connect } from "../server_state.js";
import { addNode, path, removeNode, showVersion } from "../tree.js";

/** As messageView takes them. */
export const messageActions = {
  showVersion(id) {
    if (page.running) return;
    showVersion(page.current, id);
    keep(page.current);
    show();
  },
  edit(node) {
    if (!page.running) edit(node);
  },
  regenerate(node) {
    if (!page.running) answer(node.parentId);
  },
  retry(node) {
    if (page.running) return;
    const { parentId } = node;
    removeNode(page.current, node.id);
    answer(parentId);
  },
  showRequest: showRequestOf,
  async enterKey(node) {
    if (await askKey(node.error.keyReason ?? "This server asks for a key.")) messageActions.retry(node), connect(askKey);
  },
  remove(node) {
    if (page.running) return;
    removeNode(page.current, node.id);
    keep(page.current);
    show();
  },
  answerCalls(node, results) {
    if (page.running) return;
    let parentId = node.id;
    for (const { call, content } of results) {
      parentId = addNode(page.current, parentId, { role: "tool", content, toolCallId: call.id, toolName: call.name }).id;
    }
    answer(parentId);
  },
};

export function editLastQuestion() {
  const last = path(page.current).findLast((node) => node.role === "user");
  if (last) messageActions.edit(last);
}

/** Put a field in a question's place; what is sent from there is another version of it. */
function edit(node) {
  const field = h("textarea", { class: "edit", "aria-label": "Edit the message" });
  field.value = node.content;
  const done = () => {
    const sibling = addNode(page.current, node.parentId, { role: "user", content: field.value.trim(), attachments: node.attachments });
    if (!answer(sibling.id)) removeNode(page.current, sibling.id), show();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), done();
    if (event.key === "Escape") event.stopPropagation(), show();
  });
  const buttons = h("div", { class: "row end" }, h("button", { onclick: show }, "Cancel"), h("button", { class: "primary", onclick: done }, "Send"));
  elementOf(node).querySelector(".plain").replaceChildren(field, buttons);
  field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
  field.focus();
}
