// Draws the page as it is now: the messages, the list of conversations, and the buttons.

import { byId, h } from "../shared/dom.js";
import { messageView } from "./messages/message_view.js";
import { showChooser } from "./models/chooser.js";
import { page } from "./page.js";
import { followEnd, toEnd } from "./scrolling.js";
import { showModes } from "./settings/settings_panel.js";
import { renderSidebar } from "./sidebar.js";
import { pairOf, shownNodes, titleOf } from "./tree.js";

const SUGGESTIONS = [
  ["Explain", "Explain to a beginner what a KV cache is and why it makes chat faster."],
  ["Write", "Write a short note that asks a neighbor to water the plants for a week."],
  ["Program", "Write a Python function that merges overlapping intervals, with a test."],
  ["List", "List five questions to ask before buying a used bicycle."],
];

// What can be done with messages, conversations and suggestions draws the page again, so it is given and not imported.
let actions = null;

/**
 * `given`: {message, conversation, suggest, showDraft}, as messageView and renderSidebar take the first two. Before the
 * first show().
 */
export function drawWith(given) {
  actions = given;
}

/** Show what was written for the current conversation and not sent. */
export const showDraft = () => actions.showDraft();

/** Show the current conversation, from its end on; with `isSamePlace` what is shown of it stays in view. */
export function show({ isSamePlace = false } = {}) {
  const nodes = shownNodes(page.current);
  page.unread.delete(page.current.id);
  keepingMessage(() => showMessages(nodes));
  byId("title").textContent = titleOf(page.current);
  byId("title").hidden = nodes.length === 0; // a new chat has a heading of its own
  document.title = nodes.length > 0 ? `${titleOf(page.current)} · headrace` : "headrace";
  showSidebar();
  showChooser();
  showModes();
  showRunning();
  if (isSamePlace) followEnd();
  else toEnd();
}

/** Draw; where the message with the focus is gone then, what has come in its place gets the focus. */
function keepingMessage(draw) {
  const list = byId("messages");
  const focused = document.activeElement;
  const index = [...list.children].findIndex((element) => element.contains(focused));
  draw();
  const element = list.children[index];
  if (!element?.node || list.contains(document.activeElement)) return;
  const isVersion = focused.matches("[aria-label$=version]");
  const button = isVersion ? element.querySelector(`[aria-label="${focused.ariaLabel}"]:enabled`) : null;
  (button ?? element).focus({ preventScroll: true });
}

/** Show the elements of these nodes. Those that are there stay, with what is typed, selected or focused in them. */
function showMessages(nodes) {
  const list = byId("messages");
  const shown = new Map([...list.children].map((element) => [element.node, element]));
  const elements = nodes.map((node) => {
    const old = shown.get(node);
    if (!old) return messageView(page.current, node, actions.message);
    old.update();
    return old;
  });
  if (nodes.length === 0) elements.push(welcome());
  for (const element of [...list.children]) if (!elements.includes(element)) element.remove();
  const pair = pairOf(page.current) ?? [];
  list.classList.toggle("paired", pair.length > 0);
  for (const element of elements) element.classList.toggle("half", pair.includes(element.node));
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
  for (const { node } of elements) if (node && !shown.has(node)) actions.message.reopen(node);
}

export function showSidebar() {
  renderSidebar(page.conversations, { currentId: page.current.id, unread: page.unread }, actions.conversation);
}

/** Offer to stop the answer that arrives here, or to send a message. */
export function showRunning() {
  const isHere = shownNodes(page.current).some((node) => node.isRunning);
  const isLost = document.activeElement === byId(isHere ? "send" : "stop");
  byId("send").hidden = isHere;
  byId("stop").hidden = !isHere;
  if (isLost) byId("input").focus();
}

/** Remove a conversation that another tab has deleted; where it is shown, a new chat takes its place. */
export function leaveDeleted(conversation) {
  page.conversations = page.conversations.filter((each) => each !== conversation);
  if (conversation === page.current) actions.conversation.begin();
  else showSidebar();
}

/** The element of a message that is shown, or null. */
export const elementOf = (node) => byId("messages").querySelector(`[data-id="${node.id}"]`);

function welcome() {
  const cards = SUGGESTIONS.map(([label, text]) =>
    h("button", { class: "suggestion", onclick: () => actions.suggest(text) }, h("strong", {}, label), h("span", {}, text)),
  );
  return h("div", { class: "welcome" },
    h("h1", {}, "What would you like to know?"),
    h("p", { class: "muted" }, "The model runs on this server. What you write stays between it and this browser."),
    h("div", { class: "suggestions" }, cards),
    h("p", { class: "muted small" }, "See what the engine does with your questions on the ", h("a", { href: "dashboard" }, "dashboard"), ". Press ", h("kbd", {}, "?"), " outside of the field for the keyboard."));
}
