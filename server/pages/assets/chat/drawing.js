// Draws the page as it is now: the messages, the list of conversations, and the buttons.

import { byId, h } from "../shared/dom.js";
import { messageView } from "./messages/message_view.js";
import { page } from "./page.js";
import { toEnd } from "./scrolling.js";
import { showModes } from "./settings/settings_panel.js";
import { renderSidebar } from "./sidebar.js";
import { path, titleOf } from "./tree.js";

const SUGGESTIONS = [
  ["Explain", "Explain to a beginner what a KV cache is and why it makes chat faster."],
  ["Write", "Write a short note that asks a neighbor to water the plants for a week."],
  ["Program", "Write a Python function that merges overlapping intervals, with a test."],
  ["List", "List five questions to ask before buying a used bicycle."],
];

// What can be done with messages, conversations and suggestions draws the page again, so it is given and not imported.
let actions = null;

/** `given`: {message, conversation, suggest}, as messageView and renderSidebar take the first two. Before the first show(). */
export function drawWith(given) {
  actions = given;
}

export function show() {
  const nodes = path(page.current);
  byId("messages").replaceChildren(...nodes.map((node) => messageView(page.current, node, actions.message)));
  if (nodes.length === 0) byId("messages").append(welcome());
  document.title = nodes.length > 0 ? `${titleOf(page.current)} · headrace` : "headrace";
  showSidebar();
  showModes();
  showRunning();
  toEnd();
}

export function showSidebar() {
  renderSidebar(page.conversations, page.current.id, actions.conversation);
}

/** Offer to stop the answer that arrives here, or to send a message. */
export function showRunning() {
  const isHere = page.running?.conversation === page.current;
  byId("send").hidden = isHere;
  byId("stop").hidden = !isHere;
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
