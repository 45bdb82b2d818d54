// What an answer cost, by the engine's own timings: the server sends them with each chunk, so an answer that is stopped or
// fails has them too. Tests run it without a browser.

import { count } from "../../shared/count.js";

/** Figures of an answer as they are stored with it. `numBefore`: the tokens of the text that it continues. */
export function figuresOf(timings, numBefore = 0) {
  const { predicted_n: numNew, predicted_ms: outputMs, queue_ms: queueMs, prompt_ms: promptMs } = timings;
  return {
    numPromptTokens: timings.cache_n + timings.prompt_n,
    numCachedTokens: timings.cache_n,
    numTokens: numBefore + numNew,
    numBefore, // which are among those of the prompt, too
    queueMs,
    firstTokenMs: numNew > 0 ? queueMs + promptMs : null,
    totalMs: queueMs + promptMs + outputMs,
    tokensPerSecond: numNew > 1 && outputMs > 0 ? ((numNew - 1) / outputMs) * 1000 : null, // the first one ends the prompt
    numDrafted: timings.draft_n ?? null,
    numAccepted: timings.draft_n_accepted ?? null,
  };
}

/** The figures in words: {prompt, cache, others}, or null if the engine has told none. The second is about the first. */
export function figureWords(stats) {
  if (!stats?.numPromptTokens) return null;
  const { numPromptTokens: numPrompt, numPromptTotal: numTotal, numCachedTokens: numCached, numTokens } = stats;
  const others = [];
  const isTimed = isFromEngine(stats);
  if (isTimed && stats.firstTokenMs) others.push(`first after ${seconds(stats.firstTokenMs)}`);
  if (numTokens) others.push(`${count(numTokens, "token")}${isTimed && stats.tokensPerSecond ? ` at ${rate(stats.tokensPerSecond)}/s` : ""}`);
  return {
    prompt: !numTokens && numTotal > numPrompt ? `${numPrompt.toLocaleString("en-US")} of ${count(numTotal, "prompt token")} read` : count(numPrompt, "prompt token"),
    cache: numCached > 0 ? `${share(numCached, numPrompt)} from the cache` : "none from the cache",
    others,
  };
}

/** Whether the engine measured them: earlier versions of the page did, from the moments at which chunks came. */
const isFromEngine = (stats) => Number.isFinite(stats.queueMs);

/** What the words leave out, for a tooltip. */
export function figureDetails(stats) {
  const cache =
    stats.numCachedTokens > 0
      ? `The engine still had ${stats.numCachedTokens.toLocaleString("en-US")} tokens of this conversation in its KV cache and did not compute them again, so the first token came sooner.`
      : "No part of this prompt was in the engine's KV cache.";
  const waited = stats.queueMs >= 1 ? ` It waited ${seconds(stats.queueMs)} before the engine began.` : "";
  const whole = stats.totalMs ? ` From its arrival to the last token: ${seconds(stats.totalMs)}.` : "";
  const drafts = stats.numDrafted ? ` ${stats.numAccepted} of ${stats.numDrafted} guessed tokens were right.` : "";
  if (!isFromEngine(stats)) return cache;
  return cache + waited + whole + drafts + " Measured by the engine.";
}

/** Never 100% unless all of it is, nor 0% unless nothing is. */
function share(part, whole) {
  if (part === whole) return "100%";
  return `${Math.min(99, Math.max(1, Math.round((100 * part) / whole)))}%`;
}

const rate = (perSecond) => (perSecond < 100 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en-US"));

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
