// The overview: reads the engine's frames and shows them, as long as it is looked at.

import { getEvents } from "../shared/api.js";
import { count } from "../shared/count.js";
import { byId, h } from "../shared/dom.js";
import { renderCache } from "./cache_table.js";
import { drawBlocks, drawRates, drawSteps, short } from "./charts.js";
import { legend } from "./legend.js";
import { eventsPath, offerModels, refreshModels } from "./models.js";
import { withKey } from "./operator_key.js";
import { renderRequests } from "./requests.js";
import { setState } from "./state.js";
import { askAtOnce, refreshServer, showFound, showLost } from "./server/panels.js";
import { hideLock, showLock } from "./server/locked.js";
import { drawLast, pause } from "./watching.js";
import { batchWords, draftRows, PHASES, seconds } from "./words.js";

const WINDOW_S = 60;
const RETRY_MS = 2000;
const MAX_STEPS = 400;

const points = []; // {atMs, values: {decode, prefill}}
let steps = [];
let recent = [];
let drafts = []; // of the last frames
let lookups = []; // [{atMs, queries, hits}]
let isPaused = false;
let watching = null; // AbortController of the frames that are read

function take(frame) {
  const { work, at_ms: atMs, interval_s: intervalS } = frame;
  recent = frame.recent ?? recent;
  if (intervalS > 0) {
    points.push({ atMs, values: { decode: work.decode_tokens / intervalS, prefill: work.prefill_tokens / intervalS } });
    while (points[0].atMs < atMs - WINDOW_S * 1000) points.shift();
    steps = [...steps, ...work.steps].slice(-MAX_STEPS);
    drafts = [...drafts, work.drafts].slice(-240);
    lookups = [...lookups, { queries: work.prefix_queries, hits: work.prefix_hits }].slice(-240);
  }
  if (!isPaused) showLast(frame);
}

const showLast = drawLast(show);

function show({ work, engine, is_pooling: isPooling, open, num_open: numOpen, latencies, at_ms: atMs }) {
  const { queue, blocks, batch } = work;
  const isReady = engine.state === "ready";
  const restarts = engine.num_restarts ? `, restarted ${count(engine.num_restarts, "time")}` : "";
  setState(isReady ? `Ready${restarts}` : engine.reason || engine.state, isReady ? "good" : "bad");
  for (const id of ["decode-rate", "hit-rate"]) byId(id).parentElement.hidden = isPooling;
  byId("decode-rate").textContent = short(meanOf("decode"));
  byId("prefill-words").textContent = isPooling ? "tokens/s of texts read" : "prompt tokens/s read";
  byId("prefill-rate").textContent = short(meanOf("prefill"));
  byId("running").textContent = work.running;
  const words = batchWords(batch);
  byId("running-words").textContent = words.running;
  byId("waiting-words").textContent = words.waiting;
  const numWaiting = Math.max(0, queue.urgent + queue.interactive + queue.background);
  byId("waiting").textContent = numWaiting;
  byId("hit-rate").textContent = hitRate();
  drawRates(byId("rates"), smooth(points), ["prefill", "decode"], WINDOW_S);
  drawSteps(byId("steps"), steps);
  byId("step-note").textContent = steps.length ? `last step: ${short(steps.at(-1)[0])} ms` : "";
  showBlocks(blocks);
  byId("queue-part").hidden = numWaiting === 0;
  const classes = [["urgent", queue.urgent], ["interactive", queue.interactive], ["in the background", queue.background]].filter(([, number]) => number > 0);
  if (numWaiting) bars("queue", classes, Math.max(1, numOpen), String);
  const phases = Object.entries(work.phases);
  const all = phases.reduce((total, [, value]) => total + value, 0);
  byId("no-steps").hidden = all > 0 || byId("phases").children.length > 0;
  const known = phases.map(([name, value]) => [PHASES[name] ?? name, value / all]).filter(([, share]) => share >= 0.005);
  if (all > 0) bars("phases", known, 1, (share) => `${Math.round(share * 100)} %`);
  showDrafts();
  showLatencies(latencies);
  renderRequests(open, recent, atMs, batch, numOpen);
  renderCache(recent, blocks.total > 0);
}

/** Over the last two seconds: single frames jump. */
function meanOf(name) {
  const last = points.slice(-8);
  return last.length ? last.reduce((total, point) => total + point.values[name], 0) / last.length : 0;
}

/** Each point as the mean of a second: a frame may have one large step, or none. */
function smooth(list) {
  return list.map((point, index) => {
    const last = list.slice(Math.max(0, index - 3), index + 1);
    const mean = (name) => last.reduce((total, each) => total + each.values[name], 0) / last.length;
    return { atMs: point.atMs, values: { decode: mean("decode"), prefill: mean("prefill") } };
  });
}

/** Of the last minute's prompts, or of the last requests if there were none. */
function hitRate() {
  const [queries, hits] = sum(lookups, "queries") ? [sum(lookups, "queries"), sum(lookups, "hits")] : [sum(recent, "prompt_tokens"), sum(recent, "cached_tokens")];
  return queries ? `${Math.round((100 * hits) / queries)} %` : "–";
}

const sum = (list, name) => list.reduce((total, each) => total + each[name], 0);

function showBlocks({ total, live, shared, cached }) {
  byId("blocks").hidden = total === 0;
  const parts = total === 0 ? [] : [["live", live], ["shared", shared], ["cached", cached], ["free", Math.max(0, total - live - shared - cached)]];
  drawBlocks(byId("blocks"), parts);
  const meanings = { live: "of one request", shared: "shared by several", cached: "cached for later", free: "free" };
  byId("blocks-legend").replaceChildren(...legend(parts.map(([name, number]) => [name, `${meanings[name]}: ${number.toLocaleString("en-US")}`])));
}

function bars(id, rows, most, text) {
  const list = byId(id);
  if (list.children.length !== rows.length * 3 || rows.some(([name], index) => list.children[index * 3].textContent !== name)) {
    list.replaceChildren(...rows.flatMap(([name]) => [h("dt", {}, name), h("dd", {}, h("meter", { min: 0, "aria-label": name })), h("dd", {})]));
  }
  rows.forEach(([, value], index) => {
    const meter = list.children[index * 3 + 1].firstChild;
    meter.max = most;
    meter.value = value;
    meter.style.setProperty("--share", `${(100 * value) / most}%`); // browsers draw meters each in its own way
    list.children[index * 3 + 2].textContent = text(value);
  });
}

function showDrafts() {
  const rows = draftRows(drafts);
  byId("drafts-part").hidden = rows.length === 0;
  bars("drafts", rows, 1, (share) => `${Math.round(share * 100)} %`);
}

function showLatencies({ num_requests: numRequests, first_token_s: first, per_token_s: token, whole_s: whole }) {
  const row = (name, values) => h("tr", {}, h("td", {}, name), (values.length ? values : [null, null, null]).map((value) => h("td", {}, seconds(value))));
  byId("latencies").replaceChildren(
    h("thead", {}, h("tr", {}, h("th", {}, count(numRequests, "request")), ["half within", "9 of 10", "99 of 100"].map((each) => h("th", {}, each)))),
    h("tbody", {}, first.length === 0 && whole.length ? row("for the whole answer", whole) : [row("for the first token", first), row("for each further token", token)]),
  );
}

/** Read frames until the server ends them. `came` is called for each. */
async function read(signal, came) {
  await offerModels(signal);
  askAtOnce();
  for await (const frame of getEvents(eventsPath(), signal)) {
    came();
    hideLock();
    showFound();
    take(frame);
    if (document.hidden) continue;
    refreshModels(signal);
    if (!isPaused) refreshServer(signal);
  }
  setState("The server is stopping.", "bad");
}

/** Read frames until `stopWatching`, over the server's ends and beginnings. */
export async function watch() {
  const controller = (watching = new AbortController());
  const { signal } = controller;
  while (!signal.aborted) {
    const mayGoOn = await withKey((ofAttempt, came) => read(ofAttempt, came).catch((error) => {
      if (error.isLost) showLost();
      throw error;
    }), signal, { onSilent: showLost });
    if (!mayGoOn) {
      if (!signal.aborted) showLock(watch);
      return;
    }
    await pause(RETRY_MS);
  }
}

export const stopWatching = () => watching?.abort();

byId("model").addEventListener("change", () => {
  stopWatching();
  points.length = 0;
  [steps, recent, drafts, lookups] = [[], [], [], []];
  watch();
});

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
  byId("pause").setAttribute("aria-pressed", String(isPaused));
});
