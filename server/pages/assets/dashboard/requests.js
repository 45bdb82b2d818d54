// Requests on a common time line, and the story of each.

import { byId, h } from "../shared/dom.js";
import { seconds, story } from "./words.js";

const MAX_ROWS = 24;
const WINDOW_MS = 30_000;
const SVG = "http://www.w3.org/2000/svg";

/** Show open requests, and those that ended lately. */
export function renderRequests(open, recent, nowMs) {
  const rows = [...open, ...recent.filter((each) => each.prompt_tokens)].slice(0, MAX_ROWS);
  byId("requests").replaceChildren(
    ...(rows.length > 0
      ? rows.map((each) => row(each, nowMs))
      : [h("p", { class: "empty" }, "No request yet. Ask something on the chat page, and see here what becomes of it.")]),
  );
}

function row(request, nowMs) {
  const isFailed = request.error != null || request.state === "failed";
  return h(
    "button", { class: `request ${isFailed ? "failed" : ""}`, onclick: () => show(request) },
    h("code", { title: request.id }, request.id.slice(0, 24)),
    h("span", { class: "what" }, `${request.state}, ${request.prompt_tokens} in${request.cached_tokens ? ` (${request.cached_tokens} cached)` : ""}, ${request.output_tokens} out, ${seconds(request.seconds)}`),
    timeline(request, nowMs),
  );
}

/** The request's stretches within the window that ends now. */
function timeline({ began_ms: beganMs, seconds: lasted, queue_s: queueS, first_token_s: firstS, status }, nowMs) {
  const endMs = status == null ? nowMs : beganMs + lasted * 1000;
  const marks = [
    ["waiting", beganMs, beganMs + (queueS ?? lasted) * 1000],
    ["prefill", beganMs + (queueS ?? lasted) * 1000, firstS == null ? endMs : beganMs + firstS * 1000],
    ["decode", firstS == null ? endMs : beganMs + firstS * 1000, endMs],
  ];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1000 10");
  svg.setAttribute("preserveAspectRatio", "none");
  const x = (ms) => Math.max(0, Math.min(1000, ((ms - nowMs + WINDOW_MS) / WINDOW_MS) * 1000));
  for (const [name, from, to] of marks) {
    if (to <= from || x(to) <= 0) continue;
    const rectangle = document.createElementNS(SVG, "rect");
    rectangle.setAttribute("class", name);
    rectangle.setAttribute("x", x(from).toFixed(1));
    rectangle.setAttribute("width", Math.max(1.5, x(to) - x(from)).toFixed(1));
    rectangle.setAttribute("height", "10");
    svg.append(rectangle);
  }
  return h("span", { class: "line", "aria-hidden": "true" }, svg);
}

function show(request) {
  const dialog = byId("dialog");
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, "What became of it"),
    h("dl", { class: "told" }, story(request).map(([what, text]) => [h("dt", {}, what), h("dd", {}, text)])),
    h("div", { class: "row end" }, h("button", { class: "primary", onclick: () => dialog.close() }, "Close")),
  );
  dialog.showModal();
}

/** Show what was refused or failed, newest first. */
export function renderErrors(recent) {
  const failed = recent.filter((each) => each.error != null).slice(0, 12);
  byId("errors").replaceChildren(
    ...(failed.length > 0
      ? [h("table", { class: "plain-table" }, failed.map((each) =>
          h("tr", {}, h("td", {}, new Date(each.began_ms).toLocaleTimeString()), h("td", {}, each.route), h("td", { class: "failed-word" }, `${each.status} ${each.error}`), h("td", {}, h("code", {}, each.id.slice(0, 24))))))]
      : [h("p", { class: "empty" }, "None.")]),
  );
}
