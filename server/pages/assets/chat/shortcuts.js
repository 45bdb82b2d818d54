// The page's keyboard shortcuts: the command key is Cmd on a Mac, and Ctrl elsewhere.

/** Whether a platform, as browsers name it, is one with a Cmd key. */
export const hasCmd = (platform) => /^(mac|ip(hone|ad|od))/i.test(platform);

const isMac = hasCmd(globalThis.navigator?.userAgentData?.platform || globalThis.navigator?.platform || "");

// "Mod" stands for the command key.
const KEYS = [
  ["Enter", "Send"],
  ["Shift Enter", "New line"],
  ["Esc", "Stop the answer"],
  ["Mod Shift O", "New chat"],
  ["/", "Go to the message field"],
  ["↑", "Edit the last question (in an empty field)"],
  ["Mod Z", "Undo a deletion"],
  ["Mod ,", "Settings"],
  ["?", "This help"],
];
const MAC_NAMES = { Mod: "⌘", Shift: "⇧", Enter: "⏎", Esc: "esc" };

/** The shortcuts as [names of keys, what they do]. */
export function shortcuts(onMac = isMac) {
  const nameOf = (key) => (onMac ? MAC_NAMES[key] : { Mod: "Ctrl" }[key]) ?? key;
  return KEYS.map(([keys, what]) => [keys.split(" ").map(nameOf), what]);
}

/** Whether the event is of `key` with the command key and, if wanted, Shift. */
export function isCommand(event, key, { shift = false, onMac = isMac } = {}) {
  const isHeld = onMac ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey;
  return isHeld && !event.altKey && event.shiftKey === shift && event.key.toLowerCase() === key;
}

/** Whether the event is of `key` alone, typed in no field. */
export const isPlain = (event, key) => event.key === key && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event);

export const isTyping = ({ target }) => /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
