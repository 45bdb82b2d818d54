// Says plainly when this browser does not store the conversations, what that means, and what helps.

import { count } from "../shared/count.js";
import { byId, h } from "../shared/dom.js";
import { page } from "./page.js";
import { exportAll } from "./transfer.js";

const PROBLEMS = {
  none: "This browser stores nothing here, as in a private window or with site data blocked. Conversations are lost when you close this tab.",
  blocked: "Another tab shows an older version of this page and keeps the stored conversations closed. Close that tab; until then, what you write exists in this tab only.",
  newer: "A newer version of this page has taken over the stored conversations. Reload this tab; until then, what you write exists in this tab only.",
  full: "This browser has no room to store more. Delete conversations that you no longer need; storing is tried again by itself.",
  failed: "This browser cannot store the conversations at the moment; it is tried again by itself.",
};

let isUnsafe = false;

/** Show what keeps messages from being stored, as openStorage says it. */
export function showStorage(problem, numUnsaved) {
  isUnsafe = numUnsaved > 0;
  const bar = byId("storage-notice");
  const text = PROBLEMS[problem] ?? "";
  bar.hidden = text === "";
  if (bar.hidden) return bar.replaceChildren();
  const lost = numUnsaved > 0 ? ` ${count(numUnsaved, "message")} would be lost now.` : "";
  const button = h("button", { type: "button", class: "small", onclick: () => exportAll(page.conversations) }, "Export all");
  bar.replaceChildren(h("span", { class: "grow" }, text + lost), ...(numUnsaved > 0 ? [button] : []));
}

/** Ask before the page is left while messages exist in it alone. */
export function guardUnsaved() {
  addEventListener("beforeunload", (event) => {
    if (isUnsafe) event.preventDefault();
  });
}
