// Sampling settings, with what they mean. An empty field is not sent: then the server's default holds.

import { keep, kept } from "../../shared/kept.js";

const KEY = "headrace.settings";

export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05,
    meaning: "How random the text is. 0 always takes the most likely token; above 1, the text gets wild." },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01,
    meaning: "Choose among the most likely tokens that together have this probability. 1 is off." },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1,
    meaning: "Choose among this many of the most likely tokens. 0 is off." },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01,
    meaning: "Leave out tokens that are less likely than this share of the most likely one. 0 is off." },
  { name: "max_tokens", label: "Maximum length in tokens", min: 1, step: 1,
    meaning: "The answer ends after this many tokens. Empty: as long as the context has room." },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.01, max: 2, step: 0.01,
    meaning: "Above 1, tokens that already appeared become less likely." },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0, the answer turns to new subjects." },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0, a token becomes less likely each time it is used." },
  { name: "seed", label: "Seed", step: 1,
    meaning: "The same seed, settings and messages give the same answer again." },
];

const DEFAULTS = { stop: "", logprobs: false, effort: "" };

export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(kept(KEY) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(settings) {
  keep(KEY, JSON.stringify(settings));
}

/** The request's fields that the settings ask for. */
export function requestFields(settings) {
  const fields = {};
  for (const { name } of FIELDS) if (typeof settings[name] === "number") fields[name] = settings[name];
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) fields.stop = stop;
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
  if (settings.effort) fields.reasoning_effort = settings.effort;
  return fields;
}
