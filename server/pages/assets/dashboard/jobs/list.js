// All batches, fine-tuning jobs and files that the reader may see; each job leads to its own page.

import { getJson } from "../../shared/api.js";
import { count } from "../../shared/count.js";
import { byId, h } from "../../shared/dom.js";
import { jobLink } from "../../shared/links.js";
import { withKey } from "../operator_key.js";
import { place } from "../placing.js";
import { setState } from "../state.js";
import { pause } from "../watching.js";
import { fillMeter, jobMeter } from "./meter.js";
import { bytes, kindOf, moodOf, purposeOf, stallOf, statusOf, tally, timeOf } from "./words.js";

const REFRESH_MS = 2000;
const EMPTY = "No job yet. A batch answers a file of requests in the background (POST /v1/batches); a fine-tuning job trains an adapter on your examples (POST /v1/fine_tuning/jobs).";

let showing = null; // AbortController

/** Show the jobs and follow them, until `leaveJobs`. */
export async function showJobs() {
  const { signal } = (showing = new AbortController());
  while (!signal.aborted) {
    const mayGoOn = await withKey(async (ofAttempt) => {
      const report = await getJson("dashboard/jobs", { signal: ofAttempt });
      setState("");
      render(report);
    }, signal, { wanted: "A key is needed" });
    if (!mayGoOn) return;
    await pause(REFRESH_MS);
  }
}

export const leaveJobs = () => showing?.abort();

function render(report) {
  const { jobs, files, now, is_everyones: isEveryones, has_keys: hasKeys, num_files: numFiles, file_bytes: fileBytes } = report;
  byId("jobs-tally").textContent = jobs.length ? `${tally(jobs)}.` : "";
  byId("jobs-whose").textContent = !hasKeys ? "" : isEveryones
    ? "Jobs of all keys. What is in another key’s files, its samples and its errors stay with that key."
    : "Jobs of your key.";
  const row = (job, old) => jobRow(job, old, now, hasKeys);
  const keyOf = (job) => job.id;
  place(byId("jobs-open"), jobs.filter((each) => !each.has_ended), keyOf, row, jobs.length ? "None is running or waiting." : EMPTY);
  const ended = jobs.filter((each) => each.has_ended);
  byId("jobs-ended-card").hidden = ended.length === 0;
  place(byId("jobs-ended"), ended, keyOf, row, "");
  byId("files-card").hidden = files.length === 0;
  byId("files-tally").textContent = `${count(numFiles, "file")}, ${bytes(fileBytes)}${numFiles > files.length ? `; the newest ${files.length}:` : ""}`;
  showFiles(files, now, hasKeys);
}

export function jobRow(job, old, now, hasKeys) {
  const element = old ?? h("a", { class: "job", href: jobLink(job.id) },
    h("span", { class: "job-name" }, h("b", {}), h("span", { class: "muted" })), h("span", { class: "job-status" }),
    h("span", { class: "job-bar" }, jobMeter()), h("span", { class: "job-time muted" }), h("span", { class: "job-stall" }));
  const [name, status, bar, time, stall] = element.children;
  name.children[0].textContent = kindOf(job);
  name.children[1].textContent = [job.model, hasKeys ? `key ${job.key}` : null, job.id.slice(0, 18)].filter(Boolean).join(" · ");
  element.title = job.id;
  status.className = `job-status ${moodOf(job)}`;
  status.textContent = statusOf(job);
  fillMeter(bar.firstChild, job);
  time.textContent = timeOf(job, now);
  stall.textContent = stallOf(job);
  stall.hidden = !stall.textContent;
  return element;
}

function showFiles(files, now, hasKeys) {
  const titles = ["File", "Holds", "Size", "Made", ...(hasKeys ? ["Key"] : [])];
  byId("files").replaceChildren(
    h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, files.map((file) => h("tr", {},
      h("td", { title: file.id }, file.filename ?? file.id.slice(0, 18)), h("td", {}, purposeOf(file)), h("td", {}, bytes(file.bytes)),
      h("td", {}, timeOf({ has_ended: true, ended_at: file.created_at }, now)), hasKeys ? h("td", {}, file.key) : null))),
  );
}
