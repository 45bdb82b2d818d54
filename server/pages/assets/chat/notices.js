// Short notices above the message field: what was done, and a button that undoes it.

import { byId, h } from "../shared/dom.js";

const SHOWN_MS = 20_000;

let timer = null;
let undo = null;
let shown = null; // the text that is shown, as an object of its own

/**
 * Say what was done. With `act`, offer to undo it by a button named `label`. Returns a function that closes the notice, if
 * it is still there, when it is no longer true.
 */
export function say(text, act = null, label = "Undo") {
  clearTimeout(timer);
  undo = act;
  const notice = (shown = { text });
  const button = h("button", { type: "button", class: "small", onclick: undoLast }, label);
  const close = h("button", { type: "button", class: "icon tiny", "aria-label": "Close the notice", onclick: closeNotice }, "✕");
  const isFocusLost = document.activeElement === document.body; // it was on what is deleted
  byId("notice").replaceChildren(h("span", { class: "grow" }, text), act ? button : "", close);
  byId("notice").hidden = false;
  if (act && isFocusLost) button.focus({ preventScroll: true });
  timer = setTimeout(closeUnused, act ? 3 * SHOWN_MS : SHOWN_MS);
  return () => shown === notice && closeNotice();
}

/** Undo what the shown notice says. Returns whether there was something to undo. */
export function undoLast() {
  if (!undo) return false;
  const act = undo;
  closeNotice();
  act();
  return true;
}

function closeUnused() {
  if (byId("notice").matches(":focus-within, :hover")) timer = setTimeout(closeUnused, SHOWN_MS);
  else closeNotice();
}

function closeNotice() {
  const hadFocus = byId("notice").contains(document.activeElement);
  clearTimeout(timer);
  undo = shown = null;
  byId("notice").hidden = true;
  byId("notice").replaceChildren();
  if (hadFocus) byId("input").focus();
}
