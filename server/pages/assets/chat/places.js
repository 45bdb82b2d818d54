// The address of a conversation: "#/c/ID" after the page's own. The page's own is a new chat.

const PREFIX = "#/c/";

export const addressOf = (conversation) => PREFIX + conversation.id;

/** Whether an address names a place of the page: a conversation or a new chat, and not an element. */
export const isPlace = (hash) => hash === "" || hash.startsWith(PREFIX);

/** The id of the conversation that an address names; null for a new chat. */
export const idOf = (hash) => (hash.startsWith(PREFIX) ? hash.slice(PREFIX.length) : null);

/** Give the shown conversation its address, which a new chat has none of, as the same place of the history. */
export function showConversationAddress(conversation) {
  history.replaceState(null, "", addressOf(conversation));
}

/** Go to the place of a conversation, or with null to that of a new chat, if it is another than the shown one. */
export function goTo(conversation) {
  if (idOf(location.hash) !== (conversation?.id ?? null)) history.pushState(null, "", conversation ? addressOf(conversation) : "./");
}
