// The requests on a common time line; each leads to its own page.

import { byId, h } from "../shared/dom.js";
import { requestLink } from "../shared/links.js";
import { place } from "./placing.js";
import { moreWords, rowState, seconds } from "./words.js";

const MAX_ROWS = 24;
const MIN_ENDED = 4; // the last ones, however old
const WINDOW_MS = 30_000;
const SVG = "http://www.w3.org/2000/svg";

/** Show open requests, and those that ended lately. batch: the engine's lines of batches by state. */
export function renderRequests(open, recent, nowMs, batch, numOpen) {
  const ended = recent.filter((each) => each.prompt_tokens);
  const numShown = ended.filter((each) => each.began_ms + each.seconds * 1000 > nowMs - WINDOW_MS).length;
  const rows = [...open, ...ended.slice(0, Math.max(MIN_ENDED, numShown))].slice(0, MAX_ROWS);
  byId("lines-waiting").textContent = moreWords(numOpen - Math.min(open.length, MAX_ROWS), batch.waiting);
  byId("paused-key").hidden = !open.some(({ pauses }) => pauses.length);
  place(byId("requests"), rows, keyOf, (request, old) => row(request, nowMs, old), "No request yet. Ask something on the chat page, and watch the request here.");
}

function row(request, nowMs, old) {
  const element = old ?? h("a", { href: requestLink(request.id) }, h("code", { title: request.id }, request.id.slice(0, 24)), h("span", { class: "what" }), h("span", { class: "line", "aria-hidden": "true" }));
  const [, what, line] = element.children;
  const isFailed = request.error != null || request.state === "failed";
  element.className = `request ${isFailed ? "failed" : ""}`;
  what.textContent = `${rowState(request)}, ${request.prompt_tokens} in${request.cached_tokens ? ` (${request.cached_tokens} cached)` : ""}, ${request.output_tokens} out, ${seconds(request.seconds)}`;
  line.replaceChildren(timeline(request, nowMs));
  return element;
}

const keyOf = (request) => `${request.id} ${request.began_ms}`; // clients may use an id twice

/** The request's stretches within the window that ends now. */
function timeline({ began_ms: beganMs, seconds: lasted, queue_s: queueS, first_token_s: firstS, status, again_s: againS, pauses = [] }, nowMs) {
  const endMs = status == null ? nowMs : beganMs + lasted * 1000;
  const marks = [
    ["waiting", beganMs, beganMs + (queueS ?? lasted) * 1000],
    ["prefill", beganMs + (queueS ?? lasted) * 1000, firstS == null ? endMs : beganMs + firstS * 1000],
    ["decode", firstS == null ? endMs : beganMs + firstS * 1000, endMs],
    ...(againS == null ? [] : [["waiting", beganMs + againS * 1000, endMs]]),
    ...pauses.map(([from, to]) => ["paused", beganMs + from * 1000, to == null ? endMs : beganMs + to * 1000]),
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
  return svg;
}
