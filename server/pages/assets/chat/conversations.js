// What can be done with conversations: opened, begun, renamed, deleted, imported, loaded.

import { count } from "../shared/count.js";
import { stopNodes } from "./answers/answering.js";
import { askText, showMessage } from "./dialogs.js";
import { show, showDraft, showSidebar } from "./drawing.js";
import { say } from "./notices.js";
import { addStored, resumeAnswers } from "./other_tabs.js";
import { conversationOfId, page, sortConversations } from "./page.js";
import { goTo, idOf, isPlace } from "./places.js";
import { refreshSettings } from "./settings/settings_panel.js";
import { closeSidebar } from "./sidebar.js";
import { openStorage, saveConversation, saveHead, saveRemoval } from "./storage/saving.js";
import { showStorage } from "./storage_notice.js";
import { parseExport } from "./transfer.js";
import { newConversation, titleOf } from "./tree.js";

/** As renderSidebar takes them; `begin` is for conversations that are gone. */
export const conversationActions = { open, rename, remove, begin: newChat };

export function newChat() {
  open(null);
}

/** Show what this browser has stored, and what the page's address names of it. */
export function loadConversations() {
  return openStorage(({ heads, records }) => {
    const byConversation = Map.groupBy(records, ({ conversationId }) => conversationId);
    for (const head of heads) if (byConversation.has(head.id)) addStored({ head, records: byConversation.get(head.id) });
    page.isLoaded = true;
    sortConversations();
    showSidebar();
    openAddress();
    resumeAnswers();
  }, showStorage);
}

/** Open the conversation that the page's address names, as after a reload or a step back. */
export function openAddress() {
  const id = idOf(location.hash);
  if (id === page.current.id || !isPlace(location.hash)) return;
  const conversation = id && conversationOfId(id);
  if (id && !conversation) say("This browser has no conversation with this address. It was deleted, or belongs to another browser.");
  display(conversation ?? newConversation());
}

/** Add the conversations of an exported file; what is wrong with it is shown. */
export async function importFile(file) {
  try {
    const imported = parseExport(await file.text());
    page.conversations.push(...imported);
    sortConversations();
    for (const conversation of imported) saveConversation(conversation);
    showSidebar();
    say(`Imported ${count(imported.length, "conversation")}.`);
  } catch (error) {
    showMessage("Nothing was imported", error.message);
  }
}

/** null: a new one. */
function open(conversation) {
  goTo(conversation);
  display(conversation ?? newConversation());
}

function display(conversation) {
  page.current = conversation;
  closeSidebar();
  refreshSettings();
  show();
  showDraft();
}

async function rename(conversation) {
  const title = await askText("Name of the conversation", titleOf(conversation));
  if (title === null) return;
  conversation.title = title;
  saveHead(conversation, ["title"]);
  if (conversation === page.current) show({ isSamePlace: true });
  else showSidebar();
}

function remove(conversation) {
  const nodes = Object.values(conversation.nodes);
  const wasShown = conversation === page.current;
  stopNodes(nodes);
  page.conversations = page.conversations.filter((each) => each !== conversation);
  saveRemoval(conversation, null);
  if (wasShown) newChat();
  else showSidebar();
  say(`Deleted “${titleOf(conversation)}” with ${count(nodes.length, "message")}.`, () => {
    // What another tab received was stopped there, and this page had let go of the conversation before it heard of that.
    for (const node of nodes) if (node.isRunning) Object.assign(node, { isRunning: false, finishReason: "stopped" });
    page.conversations.push(conversation);
    sortConversations();
    saveConversation(conversation);
    if (wasShown) open(conversation);
    else showSidebar();
  });
}
