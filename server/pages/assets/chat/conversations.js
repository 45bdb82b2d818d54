// What can be done with conversations: opened, begun, renamed, deleted, imported, loaded.

import { byId } from "../shared/dom.js";
import { stop } from "./answers/answering.js";
import { askText, isSure, showMessage } from "./dialogs.js";
import { show, showSidebar } from "./drawing.js";
import { keep, page } from "./page.js";
import { refreshSettings } from "./settings/settings_panel.js";
import { closeSidebar } from "./sidebar.js";
import * as store from "./store.js";
import { parseExport } from "./transfer.js";
import { endAnswers, newConversation, titleOf } from "./tree.js";

/** As renderSidebar takes them. */
export const conversationActions = { open, rename, remove };

export const newChat = () => open(newConversation());

/** Show what this browser has stored. Returns whether it stores anything. */
export async function loadConversations() {
  const isLasting = await store.open();
  page.conversations = await store.loadAll();
  page.conversations.forEach(endAnswers); // that the page was closed upon
  showSidebar();
  return isLasting;
}

/** Add the conversations of an exported file; what is wrong with it is shown. */
export async function importFile(file) {
  try {
    const imported = parseExport(await file.text());
    page.conversations = [...imported, ...page.conversations].sort((a, b) => b.updatedMs - a.updatedMs);
    for (const conversation of imported) keep(conversation);
    showSidebar();
  } catch (error) {
    showMessage("Nothing was imported", error.message);
  }
}

function open(conversation) {
  page.current = conversation;
  closeSidebar();
  refreshSettings();
  show();
  byId("input").focus();
}

async function rename(conversation) {
  const title = await askText("Name of the conversation", titleOf(conversation));
  if (title === null) return;
  conversation.title = title;
  keep(conversation);
  if (conversation === page.current) show();
  else showSidebar();
}

async function remove(conversation) {
  if (!(await isSure(`Delete “${titleOf(conversation)}”?`, "Delete"))) return;
  if (page.running?.conversation === conversation) stop();
  page.conversations = page.conversations.filter((each) => each !== conversation);
  await store.remove(conversation.id);
  if (conversation === page.current) newChat();
  else showSidebar();
}
