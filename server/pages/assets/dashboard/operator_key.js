// What the dashboard asks the server for is for operators: with the key that the page has, or one that is asked for.

import { savedKey, saveKey } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";
import { setState } from "./state.js";

/**
 * Run `work`; where it fails for want of an operator's key ask for one. Other errors are told in the page's head.
 * Returns whether it is worth trying again: not if there is no key to be had, or `signal` was aborted.
 */
export async function withKey(work, signal) {
  try {
    await work();
  } catch (error) {
    if (signal.aborted) return false;
    setState(error.message, "bad");
    const isNoOperator = error.code === "insufficient_permissions";
    if (error.wantsKey || (isNoOperator && savedKey() !== "")) return askKey(error.message); // its old one stays: it is the chat page's
    if (isNoOperator) return false;
  }
  return !signal.aborted;
}

async function askKey(reason) {
  const dialog = byId("dialog");
  const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Key", class: "grow", required: true });
  input.value = savedKey();
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, "An operator’s key is needed"),
    h("form", { method: "dialog" },
      h("p", {}, reason),
      h("div", { class: "row" }, input),
      h("div", { class: "row end" }, h("button", { class: "primary", value: "entered" }, "Use this key"))),
  );
  dialog.returnValue = ""; // some browsers leave it at Escape
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "entered") return false;
  saveKey(input.value.trim(), false);
  return true;
}
