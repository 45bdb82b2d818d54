// Sampling settings, with what they mean and their limits, which are the API's. An empty field is not sent: then the
// model's own value holds. A wrong value stays as it was typed until it is corrected, and nothing is sent with it.

import { keep, kept } from "../../shared/kept.js";

const KEY = "headrace.settings";

export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: 0.05,
    meaning: "How random the text is. 0 always takes the most likely token; above 1, the text gets wild." },
  { name: "top_p", label: "Top p", above: 0, max: 1, step: 0.01,
    meaning: "Choose among the most likely tokens that together have this probability. 1 is off." },
  { name: "top_k", label: "Top k", min: 0, max: 2 ** 31 - 1, step: 1,
    meaning: "Choose among this many of the most likely tokens. 0 is off." },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01,
    meaning: "Leave out tokens that are less likely than this share of the most likely one. 0 is off." },
  { name: "max_tokens", label: "Maximum length", unit: "token", min: 1, step: 1,
    meaning: "The answer ends after this many tokens. Empty: as long as the context has room." },
  { name: "repetition_penalty", label: "Repetition penalty", above: 0, max: 100, step: 0.05,
    meaning: "Above 1, tokens that already appeared become less likely." },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0, the answer turns to new subjects." },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1,
    meaning: "Above 0, a token becomes less likely each time it is used." },
  { name: "seed", label: "Seed", min: -(2 ** 53) + 1, max: 2 ** 53 - 1, step: 1,
    meaning: "The same seed, settings and messages give the same answer again." },
];

export const EFFORTS = ["none", "low", "medium", "high"];

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

/** Put `values` in place of all settings; without any, all are as the model has them. */
export function replaceSettings(settings, values = {}) {
  for (const { name } of FIELDS) delete settings[name];
  Object.assign(settings, DEFAULTS, values);
}

/** What a field holds: a number, undefined if it is empty, or the text if it is no number. */
export function parseValue(text) {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(trimmed) ? Number(trimmed) : text;
}

/** What is wrong with the value of a field, in words, or "". `card`: of the model that would answer. */
export function problemOf({ name, min, above, max, step }, value, card) {
  if (value === undefined) return "";
  if (typeof value !== "number") return /^\s*\d+,\d+\s*$/.test(value) ? "It has a comma; write a point." : "It is not a number.";
  if (step === 1 && !Number.isInteger(value)) return `It is ${value}; it must be a whole number.`;
  const limit = name === "max_tokens" && card?.max_model_len ? card.max_model_len - 1 : max;
  const lower = above === undefined ? `at least ${number(min)}` : `above ${above}`;
  const isLow = above === undefined ? value < min : value <= above;
  if (!isLow && !(value > limit)) return "";
  const whose = limit !== max ? ", so that one token of a prompt fits beside it" : "";
  return `It is ${number(value)}; it must be ${lower}${limit === undefined ? "" : ` and at most ${number(limit)}`}${whose}.`;
}

/** The request's fields that the settings ask for. Throws Error, in words, if one of them is wrong. */
export function requestFields(settings) {
  const fields = {};
  for (const field of FIELDS) {
    const value = settings[field.name];
    const problem = problemOf(field, value);
    if (problem) throw new Error(`${field.label} in the settings is wrong. ${problem} Correct it, or empty its field.`);
    if (value !== undefined) fields[field.name] = value;
  }
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) fields.stop = stop;
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
  if (settings.effort) fields.reasoning_effort = settings.effort;
  return fields;
}

/** All that is in force and differs from the model's own values: {name, text, isWrong}. */
export function inForce(settings, card) {
  const numbers = FIELDS.filter(({ name }) => settings[name] !== undefined).map((field) => {
    const value = settings[field.name];
    return { name: field.name, text: `${field.label} ${typeof value === "number" ? number(value) : value}`, isWrong: problemOf(field, value, card) !== "" };
  });
  const stops = settings.stop.split("\n").filter((line) => line !== "");
  const others = [
    stops.length > 0 && { name: "stop", text: stops.length === 1 ? `Stop at “${stops[0].slice(0, 20)}”` : `${stops.length} stop texts` },
    settings.effort && { name: "effort", text: `Reasoning: ${settings.effort}` },
    settings.logprobs && { name: "logprobs", text: "Token probabilities" },
  ];
  return [...numbers, ...others.filter(Boolean).map((each) => ({ ...each, isWrong: false }))];
}

/** Switch off one of those that inForce() tells. */
export function switchOff(settings, name) {
  if (name in DEFAULTS) settings[name] = DEFAULTS[name];
  else delete settings[name];
}

/** The model's own value of a field, as an empty field shows it. */
export function ownValue({ name }, card) {
  if (name === "max_tokens") return card?.max_model_len ? `up to ${number(card.max_model_len)}, less the prompt` : "as long as there is room";
  if (name === "seed") return "another one each time";
  const value = card?.headrace.default_sampling_params?.[name];
  return value === undefined ? "the model's own, known once it is loaded" : `${value} (the model's own)`;
}

const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 6 });
