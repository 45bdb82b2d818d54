// The overview's panels about the whole server: the machine, room for users, the last hour or day, keys and events.

import { getJson } from "../../shared/api.js";
import { count } from "../../shared/count.js";
import { byId, h } from "../../shared/dom.js";
import { requestLink } from "../../shared/links.js";
import { span } from "../jobs/words.js";
import { lineChart } from "../line_chart.js";
import { jobRow } from "../jobs/list.js";
import { place } from "../placing.js";
import { planPart } from "./plan.js";
import { costWords } from "./plan_words.js";
import { failuresOf, happening, keyWords, knownSince, machineRows, pointsOf, roomOf, rowsOf, usesOf, verdict } from "./words.js";

const REFRESH_MS = 2000;
const MAX_FAILURES = 12;
const WINDOWS = {
  hour: { size: 10, marks: [[-3600, "60 min ago"], [-2400, "40"], [-1200, "20"], [0, "now"]], unit: "min" },
  day: { size: 12, marks: [[-86400, "24 h ago"], [-57600, "16"], [-28800, "8"], [0, "now"]], unit: "h" },
};

let refreshedMs = 0;
let report = null;
let chosen = "hour";
let isLost = false;

/** Ask for the server's state again, unless that was done a moment ago. */
export async function refreshServer(signal) {
  if (Date.now() - refreshedMs < REFRESH_MS) return;
  refreshedMs = Date.now();
  const newer = await getJson("dashboard/server", { signal }).catch(() => null); // the frames tell of a server that is lost
  if (newer === null || signal.aborted || isLost) return;
  report = newer;
  show();
}

/** Say that the server cannot be reached, or that nothing comes since `sinceMs`; what else is shown was true before that. */
export function showLost(sinceMs = null) {
  if (isLost) return;
  isLost = true;
  const time = new Date(sinceMs ?? Date.now()).toLocaleTimeString();
  byId("verdict").textContent = sinceMs === null ? `Cannot be reached since ${time}.` : `Nothing has come from the server since ${time}; it hangs, or the network lost it.`;
  byId("verdict").className = "verdict bad";
  byId("overview").classList.add("lost");
}

/** Undo `showLost`, once the server answers again. */
export function showFound() {
  if (!isLost) return;
  isLost = false;
  byId("overview").classList.remove("lost");
  byId("verdict").textContent = "";
  if (report) show();
}

export const askAtOnce = () => (refreshedMs = 0);

function show() {
  const { text, mood } = verdict(report);
  byId("verdict").textContent = text;
  byId("verdict").className = `verdict ${mood}`;
  byId("up-since").textContent = `headrace ${report.version}, up for ${span(report.now - report.started_at)}, since ${new Date(report.started_at * 1000).toLocaleString()}.`;
  showMachine();
  showFits();
  showJobs();
  showWindow();
  showHappenings();
}

function showJobs() {
  byId("now-jobs-part").hidden = report.jobs.length === 0;
  place(byId("now-jobs"), report.jobs, ({ id }) => id, (job, old) => jobRow(job, old, report.now, report.has_keys), "");
}

function showMachine() {
  byId("machine").replaceChildren(...machineRows(report.machine).map(({ name, share, text, isFull }) => {
    const bar = h("meter", { min: 0, max: 1, value: share, "aria-label": name, class: isFull ? "full" : null });
    bar.style.setProperty("--share", `${100 * share}%`);
    return h("div", { class: "load" }, h("b", {}, name), bar, h("span", { class: isFull ? "bad" : "muted" }, text));
  }));
}

function showFits() {
  const rooms = roomOf(report);
  byId("fit").replaceChildren(...(rooms.length ? rooms.map(({ model, answer, reasons, users }) => h("div", {},
    h("p", { class: "answer" }, h("b", { class: answer === "Yes" ? "good" : "bad" }, `${answer}.`), rooms.length > 1 ? ` ${model}` : ""),
    h("ul", { class: "plain-list" }, reasons.map((reason) => h("li", {}, reason))),
    users ? h("p", { class: "muted small" }, users) : null)) : [h("p", { class: "empty" }, "No model is loaded.")]));
  byId("plans").hidden = report.fits.length === 0;
  place(byId("plans"), report.fits, ({ model }) => model, ({ model }, old) => old ?? planPart(model, () => report.fits.find((each) => each.model === model)), "");
  const costs = report.fits.map((fit) => [fit.model, costWords(fit)]).filter(([, text]) => text);
  byId("costs").replaceChildren(...costs.map(([model, text]) => h("p", { class: "muted small" }, `${costs.length > 1 ? `${model}: ` : ""}${text}`)));
}

function showWindow() {
  const { now } = report;
  const window = report[chosen];
  const { size, marks, unit } = WINDOWS[chosen];
  const range = [marks[0][0], 0];
  const rate = (name) => pointsOf(window, report, (bucket, seconds) => bucket[name] / seconds);
  const share = (name) => pointsOf(window, report, (bucket) => (bucket[name] == null ? null : 100 * bucket[name]), null);
  const events = report.happenings.filter(({ at_s: at, kind }) => ["engine_ended", "stopped", "killed"].includes(kind) && now - at < -range[0]).map(({ at_s: at }) => at - now);
  byId("history").replaceChildren(
    lineChart({ lines: [{ color: "decode", label: "written", points: rate("written_tokens") }, { color: "prefill", label: "prompt tokens computed", points: rate("read_tokens") }], unit: "tokens per second, all models", xMarks: marks, range, events, label: `Tokens per second in the last ${chosen}; the table below has it in numbers` }),
    lineChart({ lines: [{ color: "shared", label: "processors", points: share("cpu_busy") }, { color: "prefill", label: "memory", points: share("memory_used") }], unit: "percent in use", xMarks: marks, range, least: 100, label: `Processors and memory in the last ${chosen}` }));
  showRows(rowsOf(window, now, size), unit);
  showUses(usesOf(window.buckets, report));
  showFailures(failuresOf(window, report.failures, now));
}

function showRows(rows, unit) {
  const number = (value) => value.toLocaleString("en-US");
  const age = (s) => Math.round(s / (unit === "h" ? 3600 : 60));
  const hasLines = rows.some(({ lines }) => lines);
  byId("history-rows").hidden = rows.length === 0;
  byId("history-rows").replaceChildren(
    head(["When", "Requests", "Refused or failed", hasLines ? "Batch lines" : null, "Prompt tokens computed", "Tokens written", "Most at once", "Most waiting", "Processors at most"].filter(Boolean)),
    h("tbody", {}, rows.map((row) => h("tr", {},
      h("td", {}, row.to === 0 ? `last ${age(row.from)} ${unit}` : `${age(row.to)} to ${age(row.from)} ${unit} ago`),
      h("td", {}, number(row.requests)), h("td", { class: row.refused ? "bad" : null }, number(row.refused)),
      hasLines ? h("td", { class: row.failedLines ? "bad" : null }, number(row.lines), row.failedLines ? `, ${number(row.failedLines)} failed` : "") : null, h("td", {}, number(row.read)), h("td", {}, number(row.written)),
      h("td", {}, number(row.running)), h("td", {}, number(row.waiting)), h("td", {}, row.cpu ? `${Math.round(100 * row.cpu)} %` : "–")))));
}

function showUses(uses) {
  const number = (value) => value.toLocaleString("en-US");
  byId("uses-title").textContent = `Who uses it, last ${chosen}`;
  byId("no-uses").hidden = uses.length > 0;
  byId("uses").hidden = uses.length === 0;
  byId("uses").replaceChildren(
    head(["Key", "Now", "Of all work", "Requests", "Refused or failed", "Prompt tokens", "of these from the cache", "Tokens written"]),
    h("tbody", {}, uses.map((use) => h("tr", {}, h("td", {}, use.isBatch ? h("a", { href: "#/jobs" }, use.name) : use.name),
      h("td", {}, use.now ? count(use.now, use.isBatch ? "line" : "request") : "–"), h("td", {}, `${Math.round(100 * use.share)} %`), h("td", {}, count(use.requests, use.isBatch ? "line" : "request")),
      h("td", { class: use.refused ? "bad" : null }, number(use.refused)), h("td", {}, number(use.read)), h("td", {}, number(use.cached)), h("td", {}, number(use.written))))));
}

/** What was refused or failed, newest first: as many as the columns "Refused or failed" count for requests. */
function showFailures({ count: number, list }) {
  const shown = list.slice(0, MAX_FAILURES);
  byId("errors-part").hidden = number === 0;
  byId("errors-title").textContent = `Refused or failed, last ${chosen}: ${count(number, "request")}`;
  place(byId("errors"), shown, (each) => `${each.id} ${each.at_s}`, (each, old) => old ?? h(
    "a", { class: "refusal", href: requestLink(each.id) },
    h("span", {}, new Date(each.at_s * 1000).toLocaleTimeString()), h("span", { class: "failed-word" }, `${each.status} ${each.error}`),
    h("span", {}, [each.route, keyWords(each.key)].filter(Boolean).join(", ")), h("code", { title: each.id }, each.id.slice(0, 24))), "");
  byId("errors-more").textContent = number > shown.length ? `${count(number - shown.length, "other one")} not listed here. ` : "";
}

const head = (titles) => h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title))));

function showHappenings() {
  const { happenings, models, now } = report;
  byId("happenings").replaceChildren(...happenings.slice(0, 20).map((each) => h("li", { class: ["engine_ended", "gave_up", "killed"].includes(each.kind) ? "bad" : null },
    h("time", { datetime: new Date(each.at_s * 1000).toISOString(), title: new Date(each.at_s * 1000).toLocaleString() }, `${span(now - each.at_s)} ago`), ` ${happening(each, models.length > 1)}`)));
  byId("known-since").textContent = knownSince(report);
}

for (const button of document.querySelectorAll("#windows button")) {
  button.addEventListener("click", () => {
    chosen = button.dataset.window;
    for (const each of document.querySelectorAll("#windows button")) each.setAttribute("aria-pressed", String(each === button));
    if (report) showWindow();
  });
}
