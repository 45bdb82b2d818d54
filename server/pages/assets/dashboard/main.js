// The dashboard: the overview, the jobs, or the page of one request or job, by the address after its #.

import { byId } from "../shared/dom.js";
import { placeOf, requestLink } from "../shared/links.js";
import { applyTheme, switchTheme } from "../shared/theme.js";
import { leaveJobs, showJobs } from "./jobs/list.js";
import { leaveJob, showJob } from "./jobs/page.js";
import { leaveModels, showModels } from "./models/page.js";
import { stopWatching, watch } from "./overview.js";
import { leaveRequest, showRequest } from "./request_page.js";
import { followPanels } from "./server/settings.js";

// What is hidden costs the server nothing: each place is left before another one is shown.
const PLACES = {
  overview: { element: "overview", tab: "overview", title: () => "headrace: the server at work", show: watch, leave: stopWatching },
  request: { element: "request-page", tab: "overview", title: (id) => `Request ${id} · headrace`, show: showRequest, leave: leaveRequest },
  job: { element: "job-page", tab: "jobs", title: (id) => `Job ${id} · headrace`, show: showJob, leave: leaveJob },
  jobs: { element: "jobs-page", tab: "jobs", title: () => "Jobs · headrace", show: showJobs, leave: leaveJobs },
  models: { element: "models-page", tab: "models", title: () => "Models · headrace", show: showModels, leave: leaveModels },
};

let shown = null;

function showPlace() {
  const { name, id } = placeOf(location.hash);
  shown?.leave();
  shown = PLACES[name];
  byId("locked").hidden = true;
  for (const { element } of Object.values(PLACES)) byId(element).hidden = element !== shown.element;
  for (const link of document.querySelectorAll(".places a")) {
    if (link.dataset.tab === shown.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("overview-controls").hidden = name !== "overview";
  document.title = shown.title(id);
  scrollTo(0, 0);
  shown.show(id);
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
followPanels();
