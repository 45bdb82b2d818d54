// What to do where the overview may not be seen, in place of its empty frames.

import { savedKey } from "../../shared/api.js";
import { byId, h } from "../../shared/dom.js";
import { setState } from "../state.js";

/** Say how to get in. `retry` asks for the overview, and so for a key, again. */
export function showLock(retry) {
  const hasKeys = byId("state").textContent.includes("key is needed") || savedKey() !== "";
  byId("overview").hidden = true;
  byId("locked").hidden = false;
  setState("For the operator");
  byId("locked-how").replaceChildren(...(hasKeys
    ? [h("button", { class: "primary", onclick: () => (hideLock(), retry()) }, "Enter an operator’s key"), " It is one with admin: true in the keys file, or one of --api-key if there is no file."]
    : ["Open it on the server’s own machine, or start the server with ", h("code", {}, "--api-key KEY"), " and enter that key here. From this machine, ",
      h("code", {}, `ssh -L ${port()}:127.0.0.1:${port()} ${location.hostname}`), " leads to it, at ", h("code", {}, `http://127.0.0.1:${port()}/dashboard`), "."]));
  byId("locked-else").replaceChildren("Everybody ", hasKeys ? "with a key " : "", "may use ", h("a", { href: "#/jobs" }, "the jobs"), " and ", h("a", { href: "./" }, "the chat page"), ".");
}

export function hideLock() {
  if (byId("locked").hidden) return;
  byId("locked").hidden = true;
  byId("overview").hidden = false;
}

const port = () => location.port || (location.protocol === "https:" ? "443" : "80");
