// What the tabs of one browser tell each other. They carry whole records, so tabs agree even where nothing is stored.

const NAME = "headrace.chat";

export const REPLY_MS = 300; // in which another tab says that it receives an answer, or ends it

let channel = null;

/** `handlers`: a function for each kind of message, called with its content. */
export function listen(handlers) {
  channel = globalThis.BroadcastChannel ? new BroadcastChannel(NAME) : null;
  if (channel) channel.onmessage = ({ data: { kind, content } }) => handlers[kind]?.(content);
}

/** Tell all other tabs. */
export function tell(kind, content) {
  channel?.postMessage({ kind, content });
}
