// The page of one request: what became of it, when and why.

import { getJson } from "../shared/api.js";
import { count } from "../shared/count.js";
import { byId, copyButton, h } from "../shared/dom.js";
import { short } from "./charts.js";
import { legend } from "./legend.js";
import { withKey } from "./operator_key.js";
import { setState } from "./state.js";
import { stretches, ticks, waits } from "./timeline.js";
import { pause } from "./watching.js";
import { cacheStory, rowState, seconds, sentences, waitReason } from "./words.js";

const REFRESH_MS = 500; // while it is open
const RETRY_MS = 2000;
const MIN_WAIT_S = 0.001; // a shorter one is none
const SVG = "http://www.w3.org/2000/svg";

let showing = null; // AbortController of the request that is shown

/** Show the request with this id, and follow it until it is over or `leaveRequest`. */
export async function showRequest(id) {
  const { signal } = (showing = new AbortController());
  const body = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  byId("request-page").replaceChildren(...heading(id), body);
  let isOpen = true;
  while (isOpen && !signal.aborted) {
    let pauseMs = RETRY_MS;
    const mayGoOn = await withKey(async (ofAttempt) => {
      const story = await getStory(id, ofAttempt);
      if (signal.aborted) return;
      isOpen = story !== null && story.request.status == null;
      pauseMs = REFRESH_MS;
      setState(isOpen ? "Open" : "");
      body.replaceChildren(...(story ? view(story) : unknown()));
    }, signal);
    if (!mayGoOn) return;
    if (isOpen) await pause(pauseMs);
  }
}

export const leaveRequest = () => showing?.abort();

/** null if the server does not know it, or no longer. */
async function getStory(id, signal) {
  if (/^\.{1,2}$/.test(id)) return null; // a part of an address that means another address
  try {
    return await getJson(`dashboard/requests/${encodeURIComponent(id)}`, { signal });
  } catch (error) {
    if (error.status === 404) return null; // also of what can be no id: no route is for it
    throw error;
  }
}

const heading = (id) => [
  h("p", { class: "back" }, h("a", { href: "#/" }, "← All requests")),
  h("h1", { class: "request-title" }, "Request ", h("code", {}, id), copyButton(id)),
];

const unknown = () => [
  h("p", { class: "note" }, "The server has no record of this request. It keeps records of running requests and, for each model, of the last 200 that generated and the last 100 that were refused, until it ends."),
  h("p", { class: "muted" }, "The id is in the response header ", h("code", {}, "x-request-id"), "; the id of a chat answer begins with ", h("code", {}, "chatcmpl-"), " and is in the answer itself."),
];

function view(story) {
  const { request, choices } = story;
  const hasRun = choices.length > 0;
  return [
    h("div", { class: "figures" }, figures(story).map(([value, label]) => h("div", { class: "figure" }, h("span", {}, value), h("small", {}, label)))),
    request.error ? h("p", { class: "note error" }, `${request.status} ${request.error}`) : null,
    hasRun ? h("section", { class: "card" }, h("h2", {}, "Prompt"), promptBar(request), h("p", { class: "why" }, cacheStory(story))) : null,
    ...choices.map((choice, index) => choiceCard(story, choice, index)),
    story.num_choices > choices.length && hasRun ? h("p", { class: "muted" }, `Only the first ${choices.length} of ${story.num_choices} choices are shown.`) : null,
    !hasRun && !request.error ? h("p", { class: "muted" }, "There is no record of its steps: a beam search asks the engine for one token at a time.") : null,
    h("section", { class: "card" }, h("h2", {}, "Facts"), facts(story)),
  ].filter(Boolean);
}

function figures({ request, choices }) {
  const { output_tokens: tokens, first_token_s: firstS, seconds: allS } = request;
  const writingS = choices.length ? sumOf(stretches(choices[0].moments, allS).filter(({ name }) => name === "decode")) : allS - firstS;
  const rate = tokens > 1 && firstS != null && writingS > 0 ? short((tokens - 1) / writingS) : "–";
  return [
    [rowState(request), request.finish ? `finish: ${request.finish}` : "state"],
    [seconds(request.queue_s), "until its first step"],
    [seconds(firstS), "until its first token"],
    [seconds(allS), request.status == null ? "so far" : "in total"],
    [rate, "tokens/s written"],
  ];
}

function promptBar({ prompt_tokens: tokens, cached_tokens: cached }) {
  const svg = picture(10);
  svg.append(bar("cached", 0, (1000 * cached) / tokens, 10), bar("prefill", (1000 * cached) / tokens, (1000 * (tokens - cached)) / tokens, 10));
  return h("div", {}, h("div", { class: "strip", role: "img", "aria-label": `${cached} of ${tokens} prompt tokens from the cache` }, svg),
    h("p", { class: "legend" }, legend([["cached", `from the cache: ${cached.toLocaleString("en-US")}`], ["prefill", `computed: ${(tokens - cached).toLocaleString("en-US")}`]])));
}

function choiceCard(story, { moments, num_left_out: leftOut }, index) {
  const { request, num_choices: numChoices } = story;
  const nowS = request.seconds;
  const found = stretches(moments, nowS);
  const waited = waits(moments, nowS).filter((each) => each.seconds >= MIN_WAIT_S);
  const last = moments.at(-1);
  return h("section", { class: "card" },
    h("h2", {}, numChoices > 1 ? `What the engine did: choice ${index + 1}` : "What the engine did"),
    timeline(found, Math.max(nowS, last?.at_s ?? 0)),
    waited.length ? h("p", { class: "why" }, "It waited: ", waited.map((each) => `${seconds(each.seconds)} because ${waitReason(each)}`).join("; "), ".") : null,
    last?.num_drafted ? h("p", { class: "why" }, `Speculation: ${last.num_accepted ?? 0} of ${count(last.num_drafted, "drafted token")} accepted.`) : null,
    h("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Moments" },
      h("table", { class: "moments" },
        h("thead", {}, h("tr", {}, h("th", {}, "after"), h("th", {}, "what happened"))),
        h("tbody", {}, sentences(moments).map(({ moment, text }) =>
          h("tr", { class: moment.what }, h("td", {}, seconds(moment.at_s)), h("td", {}, text)))))),
    leftOut ? h("p", { class: "muted small" }, `${count(leftOut, "event")} in the middle ${leftOut === 1 ? "is" : "are"} left out.`) : null);
}

const sumOf = (list) => list.reduce((sum, { fromS, toS }) => sum + toS - fromS, 0);

const NAMES = { preparing: "being read and tokenized", waiting: "waiting", prefill: "reading the prompt", between: "between chunks", decode: "writing", paused: "paused for clients", restart: "engine restarting" };

function timeline(found, lengthS) {
  const svg = picture(24);
  const x = (s) => (lengthS > 0 ? (1000 * s) / lengthS : 0);
  for (const { name, fromS, toS } of found) {
    const rectangle = bar(name, x(fromS), Math.max(1.5, x(toS) - x(fromS)), 24);
    rectangle.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: `${NAMES[name]}: ${seconds(toS - fromS)}` }));
    svg.append(rectangle);
  }
  const totals = Map.groupBy(found, ({ name }) => name);
  const entries = [...totals].map(([name, list]) => [name, `${NAMES[name]} ${seconds(sumOf(list))}`]);
  return h("div", {},
    h("div", { class: "strip tall", role: "img", "aria-label": "Timeline; the table below has it in words" }, svg),
    h("div", { class: "axis", "aria-hidden": "true" }, ticks(lengthS).filter((s) => x(s) < 920).map((s) => tick(s, x(s)))),
    h("p", { class: "legend" }, legend(entries)));
}

function tick(s, x) {
  const element = h("span", {}, s === 0 ? "0" : seconds(s));
  element.style.left = `${x / 10}%`;
  return element;
}

function picture(height) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 1000 ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  return svg;
}

function bar(name, x, width, height) {
  const rectangle = document.createElementNS(SVG, "rect");
  const attributes = { class: name, x: x.toFixed(2), width: Math.max(0, width).toFixed(2), height };
  for (const [attribute, value] of Object.entries(attributes)) rectangle.setAttribute(attribute, value);
  return rectangle;
}

function facts({ request, response_id: responseId, key, model, is_stream: isStream, num_choices: numChoices }) {
  const rows = [
    ["Id", request.id], ["Answer’s id", responseId], ["Route", request.route], ["Model", model], ["Key", key], ["Began", new Date(request.began_ms).toLocaleString()],
    ["Streamed", isStream ? "yes" : "no"], ["Choices", numChoices || null], ["Prompt tokens", request.prompt_tokens || null],
    ["Output tokens", request.output_tokens || null], ["HTTP status", request.status],
  ].filter(([, value]) => value != null);
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}
