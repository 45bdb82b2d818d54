// What can be done with a message.

import { count } from "../../shared/count.js";
import { h } from "../../shared/dom.js";
import { keep, kept } from "../../shared/kept.js";
import { emptyAnswer } from "../answers/answer.js";
import { answer, continueAnswer, showRequestOf, stopNodes } from "../answers/answering.js";
import { contextTokens } from "../composer/context.js";
import { fits } from "../composer/fit.js";
import { askKey, askModel } from "../dialogs.js";
import { elementOf, show } from "../drawing.js";
import { cardOf, hasChoice, models, modelsOf } from "../models/chooser.js";
import { fittingModel, modelGroups } from "../models/model_list.js";
import { say } from "../notices.js";
import { conversationOfId, page } from "../page.js";
import { canContinue } from "../request.js";
import { connect, model } from "../server_state.js";
import { openSettings } from "../settings/settings_panel.js";
import { addRecords, recordOf } from "../storage/records.js";
import { saveHead, saveMessages, saveRemoval } from "../storage/saving.js";
import { addNode, nodesFrom, path, removeNode, showVersion, titleOf } from "../tree.js";

/** As messageView takes them. */
export const messageActions = {
  showVersion(id) {
    showVersion(page.current, id);
    saveHead(page.current, ["leafId"]);
    show({ isSamePlace: true });
  },
  edit,
  /** Go on with an edit that was begun when another conversation or version was shown, or the page was left. */
  reopen(node) {
    if (kept(placeOfEdit(node))) edit(node, { isReopened: true });
  },
  answer: (node) => answer(page.current, node.id),
  continue: (node) => continueAnswer(page.current, node),
  regenerate: (node) => answer(page.current, node.parentId, [], [model()]),
  hasChoice,
  async regenerateWith(node) {
    const id = await askModel("Regenerate with…", "The answer of this model becomes another version:", modelGroups(models()), null);
    if (id) answer(page.current, node.parentId, [], [id]);
  },
  /** Show two versions side by side: this one and the one before it, or after it. With null, the shown one alone. */
  showPair(pair, leafId) {
    Object.assign(page.current, { pair, leafId });
    saveHead(page.current, ["pair", "leafId"]);
    show({ isSamePlace: true });
  },
  openSetting: openSettings,
  /** The model that has room for the question of `node`, whose own has not; or null. */
  fitting: (node) => fittingModel(models(), Math.max(cardOf(node.model)?.max_model_len ?? 0, contextTokens({ ...page.current, leafId: node.parentId }))),
  retryWith: (node, id) => answer(page.current, node.parentId, [], [id]),
  retry(node) {
    const { parentId } = node;
    const again = modelsOf(page.current).includes(node.model) ? node.model : model();
    const isBare = !node.content && !node.reasoning && node.toolCalls.length === 0 && node.childIds.length === 0;
    if (!isBare) return answer(page.current, parentId, [], [again]); // what has arrived stays, as a version, and what follows
    const removed = removeNode(page.current, node.id);
    if (answer(page.current, parentId, [], [again])) saveRemoval(page.current, removed.map(({ id }) => id));
    else restore(page.current, removed);
  },
  showRequest: showRequestOf,
  async enterKey(node) {
    if (await askKey(node.error.keyReason ?? "This server asks for a key.")) {
      if (canContinue(page.current, node)) continueAnswer(page.current, node);
      else messageActions.retry(node);
      connect(askKey);
    }
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
    if (conversation !== page.current) say(`Brought back in “${titleOf(conversation)}”.`);
  });
}

function restore(conversation, records) {
  addRecords(conversation, records);
  show({ isSamePlace: true });
}

/**
 * Put a field in the place of a message. What is sent from there is another version of a question, and is answered; what
 * is saved from there is another version of an answer.
 */
function edit(node, { isReopened = false } = {}) {
  const element = elementOf(node);
  if (element.isEdited) return;
  const field = h("textarea", { class: "edit", "aria-label": "Edit the message" });
  field.value = kept(placeOfEdit(node)) || node.content;
  field.addEventListener("input", () => keepEdit(node, field.value));
  const close = () => {
    keepEdit(node, "");
    element.isEdited = false;
    element.classList.remove("edited");
    editor.remove();
    element.update();
    [...element.querySelectorAll(".foot button")].find(({ textContent }) => textContent === "Edit")?.focus();
  };
  const done = async () => {
    if (!field.value.trim() || field.readOnly) return field.focus();
    field.readOnly = true; // while it is found out whether it fits
    const sending = node.role === "user" ? askAnew(node, field.value.trim()) : saveEdited(node, field.value);
    const isTaken = await sending.finally(() => (field.readOnly = false));
    if (!isTaken) return;
    keepEdit(node, "");
    element.isEdited = false;
  };
  field.addEventListener("keydown", (event) => {
    const isSent = event.key === "Enter" && !event.isComposing && (node.role === "user" ? !event.shiftKey : event.ctrlKey || event.metaKey);
    if (isSent) event.preventDefault(), done();
    if (event.key === "Escape") event.stopPropagation(), close();
  });
  const buttons = h("div", { class: "row end" },
    h("button", { onclick: close }, "Cancel"),
    h("button", { class: "primary", onclick: done }, node.role === "user" ? "Send" : "Save"));
  const editor = h("div", { class: "editor" }, field, buttons);
  element.isEdited = true;
  element.classList.add("edited");
  element.querySelector(".body").after(editor);
  field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
  if (!isReopened) field.focus();
}

const placeOfEdit = (node) => `headrace.edit.${node.id}`;

const keepEdit = (node, text) => keep(placeOfEdit(node), text, { untilClosed: true });

/** Ask an edited question. Returns whether it could be sent. */
async function askAnew(node, content) {
  const { current } = page;
  const isFitting = await fits({ ...current, leafId: node.parentId }, { content, attachments: node.attachments ?? [] });
  if (!isFitting || page.current !== current || !current.nodes[node.id]) return false;
  const sibling = addNode(page.current, node.parentId, { role: "user", content, attachments: node.attachments });
  if (answer(page.current, sibling.id, [sibling])) return true;
  removeNode(page.current, sibling.id);
  showVersion(page.current, node.id);
  show({ isSamePlace: true });
  return false;
}

async function saveEdited(node, content) {
  const fields = { reasoning: node.reasoning, toolCalls: structuredClone(node.toolCalls), content, isEdited: true };
  const sibling = addNode(page.current, node.parentId, { ...emptyAnswer(node.model), ...fields });
  saveMessages(page.current, [sibling]);
  show({ isSamePlace: true });
  return true;
}
