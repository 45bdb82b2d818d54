// How one message is shown, and what can be done with it.

import { count } from "../../shared/count.js";
import { copyButton, h } from "../../shared/dom.js";
import { requestLink } from "../../shared/links.js";
import { figureDetails, figureWords } from "../answers/figures.js";
import { nodesFrom, siblingIds } from "../tree.js";
import { renderText } from "./text_view.js";
import { toolCallCards } from "./tool_view.js";

const NAMES = { user: "You", assistant: "Answer", tool: "Tool result" };
const ENDS = {
  length: "The answer was cut off: it reached its maximum length, or the end of the context.",
  stopped: "Stopped.",
  timeout: "The answer was cut off: its time limit was reached.",
  content_filter: "The answer was cut off by a filter.",
};

/**
 * An element for `node`; `element.update()` shows what has changed in it.
 * `actions`: {showVersion, edit, answer, regenerate, remove, answerCalls, retry, enterKey, showRequest}.
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

function updateText({ conversation, node, actions, body, foot }) {
  const files = (node.attachments ?? []).map(({ name, text }) =>
    h("details", { class: "file" }, h("summary", {}, name), h("pre", { tabindex: "0" }, text)),
  );
  const label = node.role === "tool" ? h("div", { class: "muted small" }, `Result of ${node.toolName ?? "the tool"}`) : null;
  if (body.children.length === 0) body.append(...[label, ...files].filter(Boolean), h("div", { class: "plain" }));
  body.querySelector(".plain").textContent = node.content;
  const edit = h("button", { class: "quiet small edit-button", onclick: () => actions.edit(node) }, "Edit");
  const answer = h("button", { class: "small", onclick: () => actions.answer(node), title: "Ask for the answer that this message lacks" }, "Answer");
  replaceFoot(foot,
    ...(node.childIds.length === 0 ? [answer] : []),
    ...versions(conversation, node, actions),
    copyButton(() => node.content),
    ...(node.role === "user" ? [edit] : []),
    deleteButton(conversation, node, actions),
  );
}

/** Put new buttons in place of the old ones; a keyboard stays on the button of the same name. */
function replaceFoot(foot, ...children) {
  const focused = foot.contains(document.activeElement) ? document.activeElement.textContent : null;
  foot.replaceChildren(...children);
  if (focused !== null) [...foot.querySelectorAll("button, a")].find(({ textContent }) => textContent === focused)?.focus();
}

function deleteButton(conversation, node, actions) {
  const number = nodesFrom(conversation, node.id).length;
  const what = number === 1 ? "this message" : `this message and the ${count(number - 1, "message")} below it`;
  return h("button", { class: "quiet small", onclick: () => actions.remove(node), title: `Delete ${what}` }, number === 1 ? "Delete" : `Delete ${number}`);
}

function updateAnswer({ conversation, node, actions, body, notes, foot, element }) {
  const isRunning = node.isRunning === true;
  element.setAttribute("aria-busy", String(isRunning));
  const parts = (element.parts ??= { thought: null, text: h("div", { class: "text" }), calls: h("div"), wait: waiting() });
  if (!parts.isPlaced) {
    body.append(parts.text, parts.calls, parts.wait);
    parts.isPlaced = true;
  }
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
  notes.replaceChildren(...notesOf(node, actions));
  replaceFoot(foot,
    ...versions(conversation, node, actions),
    copyButton(() => node.content || JSON.stringify(node.toolCalls, null, 2)),
    h("button", { class: "quiet small", onclick: () => actions.regenerate(node) }, "Regenerate"),
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
    body.prepend(parts.thought);
  }
  parts.thoughtLabel.textContent = isRunning && !node.content ? "Thinking…" : "Thought";
  renderText(parts.thoughtText, node.reasoning, { isAsWritten, isDone: !isRunning || Boolean(node.content) });
}

function notesOf(node, actions) {
  const notes = [];
  if (ENDS[node.finishReason]) notes.push(h("p", { class: "note" }, ENDS[node.finishReason]));
  if (node.error) {
    const remedy = node.error.wantsKey
      ? h("button", { onclick: () => actions.enterKey(node) }, "Enter a key")
      : h("button", { onclick: () => actions.retry(node) }, "Try again");
    const later = node.error.retryAfterS ? ` The server asks to wait ${node.error.retryAfterS} s.` : "";
    notes.push(h("div", { class: "note error", role: "alert" }, h("span", {}, node.error.message + later), remedy));
  }
  return notes;
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
