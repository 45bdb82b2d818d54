// What the page holds: the conversations, and which one is shown.

import { loadSettings } from "./settings/settings.js";
import { newConversation } from "./tree.js";

export const settings = loadSettings();

export const page = {
  conversations: [], // newest first; a conversation is among them from its first question on
  current: newConversation(),
  isLoaded: false, // whether what this browser has stored is among them
  unread: new Set(), // ids of conversations whose answer was completed while another one was shown
};

export function sortConversations() {
  page.conversations.sort((a, b) => b.updatedMs - a.updatedMs);
}

export const conversationOfId = (id) => page.conversations.find((each) => each.id === id);
