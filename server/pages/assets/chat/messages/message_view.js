// How one message is shown, and what can be done with it.

import { count } from "../../shared/count.js";
import { copyButton, h } from "../../shared/dom.js";
import { requestLink } from "../../shared/links.js";
import { figureDetails, figureWords } from "../answers/figures.js";
import { nameOf } from "../models/model_list.js";
import { canContinue } from "../request.js";
import { nodesFrom, pairOf, siblingIds } from "../tree.js";
import { renderText } from "./text_view.js";
import { toolCallCards } from "./tool_view.js";

const NAMES = { user: "You", assistant: "Answer", tool: "Tool result" };
const ENDS = {
  stopped: "Stopped.",
  timeout: "The answer was cut off: its time limit was reached.",
  content_filter: "The answer was cut off by a filter.",
};
const FOLDED_LINES = 16;
const FOLDED_CHARACTERS = 1500;

/**
 * An element for `node`; `element.update()` shows what has changed in it.
 * `actions`: {showVersion, edit, answer, continue, regenerate, regenerateWith, hasChoice, showPair, openSetting, fitting, retryWith, remove, answerCalls, retry, enterKey, showRequest}.
 */
export function messageView(conversation, node, actions) {
  const body = h("div", { class: "body" });
  const notes = h("div", { class: "notes" });
  const foot = h("div", { class: "foot" });
  const element = h(
    "article",
    { class: `message ${node.role}`, "aria-label": NAMES[node.role], tabindex: "-1" },
    h("h2", { class: "visually-hidden" }, NAMES[node.role]), body, notes, foot,
  );
  element.dataset.id = node.id;
  element.node = node;
  const update = node.role === "assistant" ? updateAnswer : updateText;
  element.update = () => element.isEdited || update({ conversation, node, actions, body, notes, foot, element });
  element.update();
  return element;
}

function updateText({ conversation, node, actions, body, foot, element }) {
  const files = (node.attachments ?? []).map(({ name, text }) =>
    h("details", { class: "file" }, h("summary", {}, name), h("pre", { tabindex: "0" }, text)),
  );
  const label = node.role === "tool" ? h("div", { class: "muted small" }, `Result of ${node.toolName ?? "the tool"}`) : null;
  if (body.children.length === 0) body.append(...[label, ...files].filter(Boolean), h("div", { class: "plain" }));
  const text = body.querySelector(".plain");
  text.textContent = node.content;
  fold(element, body, text, node.content);
  const answer = h("button", { class: "small", onclick: () => actions.answer(node), title: "Ask for the answer that this message lacks" }, "Answer");
  replaceFoot(foot,
    ...(node.childIds.length === 0 ? [answer] : []),
    ...versions(conversation, node, actions),
    copyButton(() => node.content),
    ...(node.role === "user" ? [editButton(node, actions)] : []),
    deleteButton(conversation, node, actions),
  );
}

/** Show the beginning of a long text, and a button for the rest. */
function fold(element, body, text, content) {
  const lines = content.split("\n").length;
  const isLong = lines > FOLDED_LINES || content.length > FOLDED_CHARACTERS;
  text.classList.toggle("folded", isLong && !element.isUnfolded);
  body.querySelector(".fold")?.remove();
  if (!isLong) return;
  const all = lines > FOLDED_LINES ? `Show all ${lines.toLocaleString("en-US")} lines` : `Show all ${content.length.toLocaleString("en-US")} characters`;
  const button = h("button", { class: "quiet small fold", "aria-expanded": String(Boolean(element.isUnfolded)) }, element.isUnfolded ? "Show less" : all);
  button.addEventListener("click", () => {
    element.isUnfolded = !element.isUnfolded;
    fold(element, body, text, content);
    body.querySelector(".fold").focus();
  });
  body.append(button);
}

const editButton = (node, actions) => h("button", { class: "quiet small", onclick: () => actions.edit(node) }, "Edit");

/** Put new buttons in place of the old ones; a keyboard stays on the button of the same name. */
function replaceFoot(foot, ...children) {
  const focused = foot.contains(document.activeElement) ? document.activeElement.textContent : null;
  foot.replaceChildren(...children);
  if (focused !== null) [...foot.querySelectorAll("button, a")].find(({ textContent }) => textContent === focused)?.focus();
}

/** Put new notes in place of other ones; a screen reader would read an error again that is put in place of itself. */
function replaceNotes(notes, children) {
  if (notes.innerHTML !== h("div", {}, children).innerHTML) notes.replaceChildren(...children);
}

function deleteButton(conversation, node, actions) {
  const number = nodesFrom(conversation, node.id).length;
  const what = number === 1 ? "this message" : `this message and the ${count(number - 1, "message")} below it`;
  return h("button", { class: "quiet small", onclick: () => actions.remove(node), title: `Delete ${what}` }, number === 1 ? "Delete" : `Delete ${number}`);
}

function updateAnswer({ conversation, node, actions, body, notes, foot, element }) {
  const isRunning = node.isRunning === true;
  element.setAttribute("aria-busy", String(isRunning));
  const parts = (element.parts ??= { name: h("div", { class: "answerer muted small" }), thought: null, text: h("div", { class: "text" }), calls: h("div"), wait: waiting() });
  if (!parts.isPlaced) {
    body.append(parts.name, parts.text, parts.calls, parts.wait);
    parts.isPlaced = true;
  }
  parts.name.textContent = node.model ? nameOf(node.model) : "";
  parts.name.title = node.model ?? "";
  const { isAsWritten = false } = element;
  if (node.reasoning) showThought(parts, body, node, { isRunning, isAsWritten });
  renderText(parts.text, node.content, { tokens: node.tokens, isAsWritten, isDone: !isRunning });
  const key = JSON.stringify([node.toolCalls, isRunning, conversation.leafId === node.id]);
  if (parts.callsKey !== key) {
    parts.callsKey = key;
    const canAnswer = !isRunning && conversation.leafId === node.id;
    parts.calls.replaceChildren(...toolCallCards(node, canAnswer ? (results) => actions.answerCalls(node, results) : null));
  }
  const isEmpty = !node.content && !node.reasoning && node.toolCalls.length === 0;
  parts.wait.hidden = !isRunning || !(isEmpty || node.isReconnecting);
  parts.wait.lastChild.textContent = node.isReconnecting ? " The connection was lost; connecting again…" : node.progress ? ` Reading: ${node.progress.processed} of ${node.progress.total} tokens` : "";
  if (isRunning) return notes.replaceChildren(), replaceFoot(foot, ...(node.progress ? [] : stats(node)));
  replaceNotes(notes, notesOf(conversation, node, actions));
  replaceFoot(foot,
    ...versions(conversation, node, actions),
    copyButton(() => node.content || JSON.stringify(node.toolCalls, null, 2)),
    ...pairButtons(conversation, node, actions),
    h("button", { class: "quiet small", onclick: () => actions.regenerate(node) }, "Regenerate"),
    ...(actions.hasChoice() ? [h("button", { class: "quiet small", onclick: () => actions.regenerateWith(node) }, "Regenerate with…")] : []),
    editButton(node, actions),
    deleteButton(conversation, node, actions),
    writtenButton(element),
    ...whatHappened(node),
    h("button", { class: "quiet small", onclick: () => actions.showRequest(node), title: "The API request that makes this answer" }, "API"),
    h("span", { class: "spread" }),
    ...stats(node),
  );
}

const waiting = () => h("div", { class: "waiting" }, h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span", { class: "muted small" }));

/** Show the text as the model wrote it, or as Markdown again. */
function writtenButton(element) {
  const change = () => {
    element.isAsWritten = !element.isAsWritten;
    element.update();
  };
  const title = "Show the text as the model wrote it, without Markdown and formulas";
  return h("button", { class: "quiet small", "aria-pressed": String(element.isAsWritten === true), onclick: change, title }, "As written");
}

function showThought(parts, body, node, { isRunning, isAsWritten }) {
  if (!parts.thought) {
    parts.thoughtText = h("div", { class: "text" });
    parts.thoughtLabel = h("summary", {});
    parts.thought = h("details", { class: "thought" }, parts.thoughtLabel, parts.thoughtText);
    parts.name.after(parts.thought);
  }
  parts.thoughtLabel.textContent = isRunning && !node.content ? "Thinking…" : "Thought";
  renderText(parts.thoughtText, node.reasoning, { isAsWritten, isDone: !isRunning || Boolean(node.content) });
}

/** How the answer ended, where that is not by itself, and what can be done then. */
function notesOf(conversation, node, actions) {
  const notes = [];
  const ended = endOf(node);
  const isCut = Boolean(ended || node.error || (node.isEdited && !node.finishReason));
  const more = isCut && canContinue(conversation, node)
    ? [h("button", { class: "small", onclick: () => actions.continue(node), title: "Go on where this text ends" }, "Continue")]
    : [];
  const end = node.error ? null : ended ?? (node.isEdited ? "Edited by you." : null);
  const reason = !ended || more.length > 0 ? "" : whyNotContinued(conversation, node);
  if (end) notes.push(h("div", { class: "note" }, h("span", {}, end + reason), ...more, ...settingButton(node, actions)));
  if (node.error) {
    const remedy = node.error.wantsKey
      ? h("button", { onclick: () => actions.enterKey(node) }, "Enter a key")
      : h("button", { onclick: () => actions.retry(node) }, "Try again");
    const later = node.error.retryAfterS ? ` The server asks to wait ${node.error.retryAfterS} s.` : "";
    notes.push(h("div", { class: "note error", role: "alert" }, h("span", { class: "grow" }, node.error.message + later), ...more, ...largerModel(node, actions), remedy));
  }
  return notes;
}

/** How an answer ended that did not end by itself, or undefined. */
function endOf(node) {
  if (node.finishReason !== "length") return ENDS[node.finishReason];
  if (isCutBySetting(node)) return `Cut off after ${count(node.maxTokens, "token")}, your setting.`;
  return "The answer was cut off at the end of the model's context.";
}

const isCutBySetting = ({ finishReason, maxTokens, stats: figures }) =>
  finishReason === "length" && maxTokens && (figures?.numTokens ?? 0) - (figures?.numBefore ?? 0) >= maxTokens;

const settingButton = (node, actions) =>
  isCutBySetting(node) ? [h("button", { class: "small", onclick: () => actions.openSetting("max_tokens") }, "Change it")] : [];

/** An offer of a model with a larger context, where that of the answer's was too small. */
function largerModel(node, actions) {
  const other = node.error.code === "context_length_exceeded" ? actions.fitting(node) : null;
  return other ? [h("button", { onclick: () => actions.retryWith(node, other.id) }, `Use ${other.label} (${other.card.max_model_len.toLocaleString("en-US")} tokens)`)] : [];
}

/** Buttons that put the newest answer beside another version of it, or leave one of two. */
function pairButtons(conversation, node, actions) {
  const pair = pairOf(conversation)?.map(({ id }) => id);
  const button = (label, title, act) => h("button", { class: "quiet small", title, onclick: act }, label);
  if (pair?.includes(node.id)) {
    const isNext = node.id === conversation.leafId;
    return [
      isNext ? h("span", { class: "chosen small", title: "The next question follows this answer" }, "✓ goes on") : button("Go on with this", "The next question follows this answer", () => actions.showPair(pair, node.id)),
      button("Only this", "Show this answer alone", () => actions.showPair(null, node.id)),
    ];
  }
  const ids = siblingIds(conversation, node);
  if (ids.length < 2 || conversation.leafId !== node.id) return [];
  const at = ids.indexOf(node.id);
  const other = ids[at - 1] ?? ids[at + 1];
  if (conversation.nodes[other].childIds.length > 0) return [];
  return [button("Side by side", "Show this version beside the one before it", () => actions.showPair(at > 0 ? [other, node.id] : [node.id, other], node.id))];
}

function whyNotContinued(conversation, node) {
  if (node.content && conversation.schema.trim()) return " With a JSON schema it cannot be continued, only regenerated.";
  return !node.content && node.reasoning ? " A thought alone cannot be continued, only regenerated." : "";
}

function versions(conversation, node, actions) {
  const ids = siblingIds(conversation, node);
  if (ids.length < 2) return [];
  const at = ids.indexOf(node.id);
  const step = (by, label, sign) =>
    h("button", {
      class: "quiet small", "aria-label": label, disabled: ids[at + by] === undefined,
      onclick: () => actions.showVersion(ids[at + by]),
    }, sign);
  return [step(-1, "Previous version", "‹"), h("span", { class: "muted small" }, `${at + 1} / ${ids.length}`), step(1, "Next version", "›")];
}

function stats({ stats: figures, requestId }) {
  const words = figureWords(figures);
  if (!words) return [];
  const cache = requestId ? h("a", { href: storyLink(requestId) }, words.cache) : words.cache;
  return [h("span", { class: "stats muted small", title: figureDetails(figures) }, `${words.prompt}, `, cache, ...words.others.map((each) => ` · ${each}`))];
}

/** The engine's own account of the answer; it knows the last few hundred. */
function whatHappened({ requestId }) {
  if (!requestId) return [];
  const title = "What the engine did for this answer: waiting, cache, chunks of the prompt, drafts";
  return [h("a", { class: "button quiet small", href: storyLink(requestId), title }, "What happened?")];
}

const storyLink = (requestId) => `dashboard${requestLink(requestId)}`;
