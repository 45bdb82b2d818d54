// What other tabs of this browser store, delete, stop and set is shown here too.

import { isReceived, receivedIds, resume, stopNodes } from "./answers/answering.js";
import { leaveDeleted, show, showSidebar } from "./drawing.js";
import { conversationOfId, page, settings, sortConversations } from "./page.js";
import { replaceSettings } from "./settings/settings.js";
import { refreshSettings, showModes } from "./settings/settings_panel.js";
import { addRecords, conversationOf, dropRecords, recordsToAdd } from "./storage/records.js";
import { dropUnsaved } from "./storage/saving.js";
import { listen, REPLY_MS, tell } from "./storage/tabs.js";

const received = new Set(); // ids of the answers that other tabs said they receive

export function listenToTabs() {
  listen({
    saved: take,
    head({ id, fields }) {
      const conversation = conversationOfId(id);
      if (!conversation) return;
      const { leafId, ...others } = fields; // each tab shows the version that was chosen in it
      Object.assign(conversation, others);
      sortConversations();
      if (conversation === page.current) refreshSettings();
      redraw(conversation);
    },
    removed(removal) {
      const conversation = conversationOfId(removal.id);
      if (conversation) drop(conversation, removal.messageIds);
      dropUnsaved(removal);
    },
    settings(values) {
      replaceSettings(settings, values);
      showModes();
      refreshSettings();
    },
    presets: refreshSettings,
    stop: (id) => stopNodes(nodesOfId(id).filter(() => isReceived(id))),
    asks: () => tell("receives", receivedIds()),
    receives: (ids) => ids.forEach((id) => received.add(id)),
    left(ids) {
      for (const id of ids) received.delete(id);
      setTimeout(() => resumeAnswers((node) => ids.includes(node.id)), Math.random() * REPLY_MS); // one tab is first
    },
  });
}

function take(stored) {
  // Until this page has loaded what is stored, another tab may tell of what is not here yet.
  const records = page.isLoaded ? recordsToAdd(stored, conversationOfId(stored.head.id)) : stored.records;
  if (records.length === 0) return;
  addStored({ head: stored.head, records });
  sortConversations();
  redraw(conversationOfId(stored.head.id));
}

/** Add messages that another tab has stored, or this browser before the page was opened. */
export function addStored({ head, records }) {
  const known = conversationOfId(head.id);
  if (known) {
    known.updatedMs = Math.max(known.updatedMs, head.updatedMs);
    addRecords(known, records.filter(({ id }) => !isReceived(id)));
  } else page.conversations.push(conversationOf(head, records));
}

/**
 * Go on with the answers that were arriving when their page was left, and that no other tab receives. `isWanted`: of
 * which nodes.
 */
export function resumeAnswers(isWanted = () => true) {
  tell("asks");
  setTimeout(() => {
    for (const conversation of page.conversations) {
      for (const node of Object.values(conversation.nodes)) {
        if (node.isRunning && isWanted(node) && !received.has(node.id)) resume(conversation, node);
      }
    }
    received.clear();
    showSidebar();
  }, REPLY_MS);
}

function drop(conversation, messageIds) {
  const nodes = messageIds === null ? Object.values(conversation.nodes) : messageIds.map((id) => conversation.nodes[id]).filter(Boolean);
  stopNodes(nodes.filter(({ id }) => isReceived(id)));
  if (messageIds === null) leaveDeleted(conversation);
  else {
    dropRecords(conversation, messageIds);
    redraw(conversation);
  }
}

function nodesOfId(id) {
  return page.conversations.map(({ nodes }) => nodes[id]).filter(Boolean);
}

function redraw(conversation) {
  if (conversation === page.current) show({ isSamePlace: true });
  else showSidebar();
}
