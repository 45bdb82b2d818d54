// What the page holds: the conversations, which one is shown, and the answer that arrives.

import { setState } from "./server_state.js";
import { loadSettings } from "./settings/settings.js";
import * as store from "./store.js";
import { newConversation } from "./tree.js";

export const settings = loadSettings();

export const page = {
  conversations: [], // newest first; a conversation is among them from its first question on
  current: newConversation(),
  running: null, // {node, conversation, abort}
};

/** Store a conversation, unless it was deleted meanwhile: an answer can arrive for one that was. */
export function keep(conversation) {
  if (!page.conversations.includes(conversation)) return;
  store.save(structuredClone(conversation)).catch(() => setState("This browser has no room to store the conversation.", { isBad: true }));
}
