// The options in force, and the log, each loaded when its panel is opened.

import { getJson } from "../../shared/api.js";
import { byId, h } from "../../shared/dom.js";

const REFRESH_MS = 1500;
const MAX_LINES = 500;

let lines = [];
let last = 0;
let beganS = null; // of the server process that wrote the lines
let reading = null; // timer

async function showSettings() {
  const { settings } = await getJson("dashboard/settings");
  const row = ({ flag, value, help }) => h("tr", { title: help }, h("td", {}, h("code", {}, flag)), h("td", {}, value));
  const table = (list) => h("table", { class: "plain-table settings-table" }, h("tbody", {}, list.map(row)));
  const changed = settings.filter((each) => !each.is_default);
  byId("settings").replaceChildren(
    h("p", { class: "muted small" }, changed.length ? "Set by a flag, a variable or a file:" : settings.length ? "All options have their defaults." : "This server was not started by headrace serve."),
    table(changed),
    h("details", {}, h("summary", {}, `${settings.length - changed.length} with their defaults`), table(settings.filter((each) => each.is_default))));
}

async function readLog() {
  clearTimeout(reading);
  if (!byId("log-panel").open || byId("overview").hidden || document.hidden) return;
  const answer = await getJson(`dashboard/log?after=${last}`).catch(() => null); // the page's head tells of a server that is lost
  const isNew = answer !== null && answer.began_s !== beganS; // another server process, which counts anew
  if (isNew) [lines, last, beganS] = [[], 0, answer.began_s];
  else if (answer?.lines.length) {
    lines = [...lines, ...answer.lines.filter(({ number }) => number > last)].slice(-MAX_LINES); // two answers may cross
    last = lines.at(-1).number;
    showLog();
  }
  clearTimeout(reading);
  reading = setTimeout(readLog, isNew ? 0 : REFRESH_MS);
}

function showLog() {
  const list = byId("log");
  const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
  const shown = lines.filter(({ level }) => !byId("log-warnings").checked || !["info", "debug"].includes(level));
  list.replaceChildren(...(shown.length ? shown.map(({ at_s: at, level, message }) =>
    h("div", { class: `log-line ${level}` }, h("time", {}, new Date(at * 1000).toLocaleTimeString()), ` ${level === "info" ? "" : `${level}: `}${message}`)) : [h("p", { class: "empty" }, "No line yet.")]));
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

/** Load the panels whenever they are opened. */
export function followPanels() {
  byId("settings-panel").addEventListener("toggle", () => byId("settings-panel").open && showSettings().catch((error) => (byId("settings").textContent = error.message)));
  byId("log-panel").addEventListener("toggle", readLog);
  byId("log-warnings").addEventListener("change", showLog);
  addEventListener("hashchange", readLog);
  document.addEventListener("visibilitychange", readLog);
}
