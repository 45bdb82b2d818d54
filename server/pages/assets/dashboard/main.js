// The dashboard: the overview, or the page of one request, by the address after its #.

import { byId } from "../shared/dom.js";
import { requestLink, requestOf } from "../shared/links.js";
import { applyTheme, switchTheme } from "../shared/theme.js";
import { stopWatching, watch } from "./overview.js";
import { leaveRequest, showRequest } from "./request_page.js";

function showPlace() {
  const id = requestOf(location.hash);
  leaveRequest();
  stopWatching(); // the page is hidden, and should cost the server nothing
  byId("overview").hidden = id !== null;
  byId("request-page").hidden = id === null;
  byId("overview-controls").hidden = id !== null;
  document.title = id === null ? "headrace: the engine at work" : `Request ${id} · headrace`;
  scrollTo(0, 0);
  if (id === null) watch();
  else showRequest(id);
}

byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) location.hash = requestLink(id);
  byId("find-id").value = "";
});
byId("theme").addEventListener("click", switchTheme);
addEventListener("hashchange", showPlace);
applyTheme();
showPlace();
