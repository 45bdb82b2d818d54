// Served models and fetches of models, in words. No element is made here: tests run it without a browser.

import { size } from "../model_rows.js";

const STATES = { unloaded: "Not loaded", loading: "Loading", loaded: "Loaded", unloading: "Being unloaded", failed: "Failed" };

const STAGES = [
  [/^(import libraries)?$/, "Starting"],
  [/^look up /, "Looking it up"],
  [/^download /, "Downloading"],
  [/^unpack /, "Unpacking"],
  [/^verify$/, "Checking its hashes"],
  [/^check that /, "Checking whether it fits"],
  [/^wait for other pulls$/, "Waiting for other models"],
  [/^wait for another download/, "Waiting for another program that fetches it"],
];

const ENDS = { complete: "In the cache", failed: "Failed", stopped: "Stopped" };

/** The state of a served model: {text, mood}. */
export function stateOf({ state, stage, progress }) {
  const share = state === "loading" && progress != null ? ` (${Math.round(100 * progress)} %)` : "";
  const doing = state === "loading" && stage ? `: ${stage}` : "";
  return { text: `${STATES[state] ?? state}${doing}${share}`, mood: { loaded: "good", failed: "bad" }[state] ?? "" };
}

/** What can be done with a served model: "load", "unload", or null if its state is not an operator's to change now. */
export function changeOf({ memory_bytes: memoryBytes, state }) {
  if (memoryBytes === undefined) return null; // its server has no way to unload it
  return { unloaded: "load", failed: "load", loaded: "unload", loading: "unload" }[state] ?? null;
}

export const isOpen = ({ state }) => state === "waiting" || state === "running";

/** What a fetch does now, or how it ended: {text, mood}. */
export function statusOf({ state, stage }) {
  if (ENDS[state]) return { text: ENDS[state], mood: { complete: "good", failed: "bad" }[state] ?? "" };
  const known = STAGES.find(([pattern]) => pattern.test(stage));
  return { text: known ? known[1] : stage, mood: "" };
}

/** How far a fetch is: "45 MiB of 98 MiB, 3 MiB/s, about 18 s left". `rate`: bytes/s, if it is known. */
export function amountOf(pull, rate = null) {
  const { done, total, unit, size_bytes: stored } = pull;
  if (!isOpen(pull)) return stored ? size(stored) : "";
  if (unit !== "B") return total ? `${done} of ${total} ${unit}` : "";
  if (!total) return done ? `${size(done)} so far` : "";
  const speed = rate ? [`${size(rate)}/s`, `about ${inOneUnit((total - done) / rate)} left`] : [];
  return [`${size(done)} of ${size(total)}`, ...(done < total ? speed : [])].join(", ");
}

const inOneUnit = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);

/** Whether the model fits into memory, as far as that is known: {text, mood}, or null. */
export function fitOf(pull) {
  const { memory, free_bytes: free, total, unit, stage } = pull;
  if (memory) {
    const starts = { ok: "It fits into memory: ", warning: "It fits only with swapping: ", problem: "" };
    return { text: `${starts[memory.severity]}${memory.message}.`, mood: { ok: "good", warning: "warn", problem: "bad" }[memory.severity] };
  }
  if (!isOpen(pull) || !free) return null;
  const isSized = unit === "B" && total > 0 && /^download /.test(stage);
  if (!isSized) return { text: `${size(free)} of memory are free beside what is served now.`, mood: "" };
  if (total > free) return { text: `Its files have ${size(total)}, and ${size(free)} of memory are free: beside what is served now it does not fit.`, mood: "bad" };
  return { text: `Its files have ${size(total)}; ${size(free)} of memory are free beside what is served now.`, mood: "" };
}

/** The patterns that name one model, to be offered for choice. */
export const namesIn = (patterns) => patterns.filter((pattern) => !/[*?[]/.test(pattern));
