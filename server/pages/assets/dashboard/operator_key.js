// The dashboard's requests need an operator's key: the saved one, or one that the user enters.

import { savedKey, saveKeyOfTab } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";
import { setState } from "./state.js";
import { followSilence } from "./watching.js";

const OPERATORS = "An operator’s key is needed";
const GIVE_UP_MS = 20_000; // with a connection on which nothing comes, for another one

/**
 * Run `work(signal, came)`, with a signal of its own; it calls `came` for each thing that comes before its end. If it fails
 * for lack of a key, ask for one under the title `wanted` and run it again. Other errors, and a server that says nothing, are
 * shown in the page's head; `onSilent` is called with the time since when. Returns whether it is worth trying again: not if
 * there is no key to be had, or `signal` was aborted.
 */
export async function withKey(work, signal, { wanted = OPERATORS, onSilent = () => {} } = {}) {
  for (;;) {
    const attempt = new AbortController();
    const silence = followSilence((sinceMs, lastsMs) => {
      setState(`Nothing has come from the server since ${new Date(sinceMs).toLocaleTimeString()}.`, "bad");
      onSilent(sinceMs);
      if (lastsMs >= GIVE_UP_MS) attempt.abort();
    });
    try {
      await work(AbortSignal.any([signal, attempt.signal]), silence.came);
      silence.came();
      return !signal.aborted;
    } catch (error) {
      if (signal.aborted) return false;
      if (attempt.signal.aborted) return true;
      setState(error.wantsKey ? error.keyReason : error.message, "bad");
      const isNoOperator = error.code === "insufficient_permissions";
      if (!error.wantsKey && !isNoOperator) return true;
      if (isNoOperator && savedKey() === "") return false; // no key would help
    } finally {
      silence.stop();
    }
    const hasKey = await askKey(wanted, byId("state").textContent); // the old one stays until then: it is the chat page's
    if (signal.aborted) return false;
    if (!hasKey) {
      setState(`${wanted}. Reload the page to enter one.`, "bad");
      return false;
    }
  }
}

async function askKey(title, reason) {
  const dialog = byId("dialog");
  const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Key", placeholder: "Key", class: "grow", required: true });
  input.value = savedKey();
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, title),
    h("form", { method: "dialog" },
      h("p", {}, reason),
      h("div", { class: "row" }, input),
      h("div", { class: "row end" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: "primary", value: "entered" }, "Use this key"))),
  );
  dialog.returnValue = ""; // some browsers leave it at Escape
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "entered") return false;
  saveKeyOfTab(input.value.trim());
  return true;
}
