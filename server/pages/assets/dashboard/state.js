// The line in the page's head that says how the server is.

import { byId } from "../shared/dom.js";

export function setState(text, kind = "") {
  byId("state").textContent = text;
  byId("state").className = `state ${kind}`;
}
