// The list of conversations, beside the messages or, on a phone, over them.

import { count } from "../shared/count.js";
import { byId, h } from "../shared/dom.js";
import { addressOf } from "./places.js";
import { titleOf } from "./tree.js";

const DAY_MS = 24 * 3600 * 1000;

/**
 * Show `conversations`, newest first, by day. `marks`: {currentId, unread}: which one is shown, and the ids of those with
 * an answer that was not seen. `actions`: {open, rename, remove}.
 */
export function renderSidebar(conversations, marks, actions) {
  const wanted = byId("search").value.trim().toLowerCase();
  const shown = conversations.filter((each) => each.rootIds.length > 0 && (!wanted || holds(each, wanted)));
  const groups = Map.groupBy(shown, (each) => dayOf(each.updatedMs));
  const list = byId("conversations");
  const scrolled = list.scrollTop;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.place : null;
  list.replaceChildren(
    ...[...groups].map(([day, members]) =>
      h("section", {}, h("h2", { class: "day" }, day), h("ul", {}, members.map((each) => item(each, marks, actions)))),
    ),
    ...(shown.length === 0 ? [h("p", { class: "muted empty" }, wanted ? "Nothing found." : "Your conversations appear here. They stay in this browser.")] : []),
  );
  list.scrollTop = scrolled;
  if (focused) [...list.querySelectorAll("a, button")].find(({ dataset }) => dataset.place === focused)?.focus({ preventScroll: true });
}

function item(conversation, { currentId, unread }, actions) {
  const title = titleOf(conversation);
  const isCurrent = conversation.id === currentId;
  const number = Object.keys(conversation.nodes).length;
  return h(
    "li", { class: isCurrent ? "current" : "" },
    h("a", { class: "title", href: addressOf(conversation), "aria-current": isCurrent ? "page" : null, title, "data-place": `open ${conversation.id}`, onclick: (event) => openHere(event, conversation, actions) }, title),
    mark(conversation, unread),
    h("button", { class: "icon tiny", "aria-label": `Rename “${title}”`, title: "Rename", "data-place": `rename ${conversation.id}`, onclick: () => actions.rename(conversation) }, "✎"),
    h("button", { class: "icon tiny", "aria-label": `Delete “${title}”`, title: `Delete ${count(number, "message")}`, "data-place": `delete ${conversation.id}`, onclick: () => actions.remove(conversation) }, "✕"),
  );
}

/** Open the conversation in this tab; with Ctrl or another button, the browser does as with any link. */
function openHere(event, conversation, actions) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  actions.open(conversation);
}

function mark(conversation, unread) {
  const isAnswering = Object.values(conversation.nodes).some((node) => node.isRunning);
  if (!isAnswering && !unread.has(conversation.id)) return null;
  const label = isAnswering ? "An answer is arriving" : "A new answer";
  return h("span", { class: isAnswering ? "mark answering" : "mark", role: "img", "aria-label": label, title: label });
}

function holds(conversation, wanted) {
  if (titleOf(conversation).toLowerCase().includes(wanted)) return true;
  return Object.values(conversation.nodes).some((node) => node.content.toLowerCase().includes(wanted));
}

function dayOf(ms) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (ms >= midnight) return "Today";
  if (ms >= midnight - DAY_MS) return "Yesterday";
  if (ms >= midnight - 6 * DAY_MS) return "This week";
  return new Date(ms).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}

const isPhone = () => matchMedia("(max-width: 760px)").matches;

export function toggleSidebar() {
  if (isPhone()) {
    document.body.classList.toggle("sidebar-open");
    byId("scrim").hidden = !document.body.classList.contains("sidebar-open");
  } else document.body.classList.toggle("sidebar-closed");
}

/** Close what lies over the messages on a phone. */
export function closeSidebar() {
  document.body.classList.remove("sidebar-open");
  byId("scrim").hidden = true;
}
