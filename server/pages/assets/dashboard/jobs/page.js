// The page of one batch or fine-tuning job: how far it is, what it made, and what went wrong.

import { getJson, sendJson } from "../../shared/api.js";
import { byId, copyButton, h } from "../../shared/dom.js";
import { withKey } from "../operator_key.js";
import { setState } from "../state.js";
import { pause } from "../watching.js";
import { batchView } from "./batch.js";
import { fillMeter, jobMeter } from "./meter.js";
import { trainingView } from "./training.js";
import { figuresOf, kindOf, stallOf } from "./words.js";

const REFRESH_MS = 1000;

let showing = null; // AbortController of the job that is shown

/** Show the job with this id, and follow it until it has ended or `leaveJob`. */
export async function showJob(id) {
  const { signal } = (showing = new AbortController());
  const body = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  byId("job-page").replaceChildren(h("p", { class: "back" }, h("a", { href: "#/jobs" }, "← All jobs")), body);
  let view = null;
  let after = 0;
  for (let isOver = false; !isOver && !signal.aborted; ) {
    let mustHurry = false;
    const mayGoOn = await withKey(async (ofAttempt) => {
      const report = await getReport(id, after, ofAttempt);
      if (signal.aborted) return;
      setState("");
      if (report === null) {
        body.replaceChildren(h("p", { class: "note" }, "There is no such job, or it belongs to another key."), h("p", { class: "muted" }, h("code", {}, id)));
        isOver = true;
        return;
      }
      after = report.next_event;
      if (view === null) {
        view = jobView(report);
        body.replaceChildren(view.element);
      }
      view.update(report);
      mustHurry = report.has_more;
      isOver = report.job.has_ended && !report.has_more;
    }, signal, { wanted: "A key is needed" });
    if (!mayGoOn) return;
    if (!isOver && !mustHurry) await pause(REFRESH_MS);
  }
}

export const leaveJob = () => showing?.abort();

/** null if there is no such job. */
async function getReport(id, after, signal) {
  if (/^\.{1,2}$/.test(id)) return null; // a part of an address that means another address
  try {
    return await getJson(`dashboard/jobs/${encodeURIComponent(id)}?after=${after}`, { signal });
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** {element, update(report)}. The elements stay while their contents change. */
function jobView({ job: { id, kind, is_own: isOwn, key } }) {
  const figures = h("div", { class: "figures" });
  const meter = jobMeter();
  const stall = h("p", { class: "note", hidden: true });
  const actions = h("div", { class: "row job-actions" });
  const fault = h("p", { class: "note error", role: "alert", hidden: true });
  const content = kind === "batch" ? batchView() : trainingView();
  const element = h("div", {},
    h("h1", { class: "request-title" }, `${kindOf({ kind })} `, h("code", {}, id), copyButton(id)),
    figures, stall, h("section", { class: "card" }, meter, actions, fault),
    isOwn ? null : h("p", { class: "note" }, `This job belongs to ${key.includes(" ") ? key : `the key ${key}`}. Its samples, events and errors are shown to that key alone.`),
    content.element);
  let shown = "";
  return {
    element,
    update(report) {
      const { job } = report;
      figures.replaceChildren(...figuresOf(report).map(([value, label, mood = ""]) => h("div", { class: "figure" }, h("span", { class: mood }, value), h("small", {}, label))));
      stall.textContent = stallOf(job);
      stall.hidden = !stall.textContent;
      fillMeter(meter, job);
      const offered = isOwn ? offers(job) : [];
      if (shown !== String(offered.map(([label]) => label))) {
        shown = String(offered.map(([label]) => label));
        actions.replaceChildren(...offered.map(([label, path, question]) => actionButton(label, path, question, fault)));
      }
      actions.hidden = offered.length === 0;
      content.update(report);
    },
  };
}

/** What can be done with the job: [label, path, question before it]. */
function offers({ id, kind, status, has_ended: hasEnded }) {
  if (hasEnded) return [];
  if (kind === "batch") {
    return status === "cancelling" || status === "finalizing" ? [] : [["Cancel", `v1/batches/${id}/cancel`, "Cancel this batch? Answers so far are kept; lines without one get an error."]];
  }
  const path = `v1/fine_tuning/jobs/${id}`;
  return [
    status === "paused" ? ["Resume", `${path}/resume`] : ["Pause", `${path}/pause`],
    ["Cancel", `${path}/cancel`, "Cancel this job? It cannot be resumed; checkpoints of its epochs stay."],
  ];
}

function actionButton(label, path, question, fault) {
  const button = h("button", { class: label === "Cancel" ? "danger" : "" }, label);
  button.addEventListener("click", async () => {
    if (question && !(await isSure(question, label))) return;
    button.disabled = true;
    fault.hidden = true;
    try {
      await sendJson("POST", path);
    } catch (error) {
      fault.textContent = error.message;
      fault.hidden = false;
    }
    button.disabled = false;
  });
  return button;
}

async function isSure(question, label) {
  const dialog = byId("dialog");
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, `${label}?`), h("p", {}, question),
    h("form", { method: "dialog", class: "row end" }, h("button", { value: "" }, "Go back"), h("button", { class: "danger", value: "sure" }, `${label} it`)));
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "sure";
}
