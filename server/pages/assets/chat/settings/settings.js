// Sampling settings, with what they mean and their limits, which are the API's. An empty field is not sent: then the
// model's own value holds. A wrong value stays as it was typed until it is corrected, and nothing is sent with it.

import { keep, kept } from "../../shared/kept.js";
import { tell } from "../storage/tabs.js";

const KEY = "headrace.settings";
const INT32 = 2 ** 31 - 1;
const MAX_STOPS = 64;
const MAX_STOP_CHARACTERS = 1024;

export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: 0.05, usual: 2, beyond: "the text is mostly random words",
    meaning: "How random the text is. 0 always takes the most likely token; above 1, the text gets wild." },
  { name: "top_p", label: "Top p", above: 0, max: 1, step: 0.01,
    meaning: "Choose among the most likely tokens that together have this probability. 1 is off." },
  { name: "top_k", label: "Top k", min: -1, max: INT32, step: 1,
    meaning: "Choose among this many of the most likely tokens. 0 and -1 are off." },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01,
    meaning: "Leave out tokens that are less likely than this share of the most likely one. 0 is off." },
  { name: "max_tokens", label: "Maximum length", unit: "token", min: 1, max: INT32, step: 1,
    meaning: "The answer ends after this many tokens. Empty: as long as the context has room." },
  { name: "repetition_penalty", label: "Repetition penalty", above: 0, max: 100, step: 0.05, usual: 2, beyond: "few models still write sentences",
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
  tell("settings", settings);
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
  const limit = name === "max_tokens" && card?.max_model_len ? Math.min(card.max_model_len - 1, max) : max;
  const lower = above === undefined ? `at least ${number(min)}` : `above ${above}`;
  const isLow = above === undefined ? value < min : value <= above;
  if (!isLow && !(value > limit)) return "";
  const whose = limit !== max ? ", so that one token of a prompt fits beside it" : "";
  return `It is ${number(value)}; it must be ${lower} and at most ${number(limit)}${whose}.`;
}

/** What is said of a value that the server accepts and that is seldom meant, or "". */
export function hintOf(field, value) {
  return value > field.usual && !problemOf(field, value) ? `It is ${number(value)}. Above ${field.usual}, ${field.beyond}.` : "";
}

/** What is wrong with one of the longer texts, by its name, in words, or "". */
export function textProblemOf(name, text) {
  if (name === "stop") return stopProblemOf(stopTexts(text));
  if (name === "system" || !text.trim()) return "";
  try {
    return name === "tools" ? toolsProblemOf(JSON.parse(text)) : schemaProblemOf(JSON.parse(text));
  } catch (error) {
    return `It cannot be read as JSON: ${error.message}`;
  }
}

function toolsProblemOf(value) {
  if (!Array.isArray(value)) return "It is not a list. Write [{…}], as in OpenAI's API.";
  const index = value.findIndex((tool) => !isObject(tool));
  return index < 0 ? "" : `Its tool ${index + 1} is no object. Write [{…}], as in OpenAI's API.`;
}

function schemaProblemOf(value) {
  return isObject(value) || typeof value === "boolean" ? "" : "It is no object. Write {…}, or nothing if the answer may be any text.";
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function stopProblemOf(stops) {
  if (stops.length > MAX_STOPS) return `It has ${stops.length} lines; there may be at most ${MAX_STOPS}.`;
  const long = stops.findIndex((stop) => [...stop].length > MAX_STOP_CHARACTERS);
  return long < 0 ? "" : `Its text ${long + 1} has ${number([...stops[long]].length)} characters; it may have at most ${number(MAX_STOP_CHARACTERS)}.`;
}

const stopTexts = (text) => text.split("\n").filter((line) => line !== "");

const TEXTS = { schema: "JSON schema", tools: "Tools", stop: "Stop texts" };

/** All that is wrong with the settings of a conversation and with those of all answers: {name, label, text} of each. */
export function problemsOf(conversation, settings, card) {
  const texts = { ...conversation, stop: settings.stop };
  return [
    ...Object.entries(TEXTS).map(([name, label]) => ({ name, label, text: textProblemOf(name, texts[name] ?? "") })),
    ...FIELDS.map((field) => ({ name: field.name, label: field.label, text: problemOf(field, settings[field.name], card) })),
  ].filter(({ text }) => text !== "");
}

/** The request's fields that right settings ask for. */
export function requestFields(settings) {
  const fields = {};
  for (const { name } of FIELDS) if (settings[name] !== undefined) fields[name] = settings[name];
  const stop = stopTexts(settings.stop);
  if (stop.length > 0) fields.stop = stop;
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
  if (settings.effort) fields.reasoning_effort = settings.effort;
  return fields;
}

/** The most tokens that an answer may have by the settings; 0 if they leave that to the model. */
export const answerTokens = ({ max_tokens: value }) => (typeof value === "number" ? value : 0);

/** All that is in force and differs from the model's own values: {name, text, isWrong, hint}. */
export function inForce(settings, card) {
  const numbers = FIELDS.filter(({ name }) => settings[name] !== undefined).map((field) => {
    const value = settings[field.name];
    const text = `${field.label} ${typeof value === "number" ? number(value) : value}`;
    return { name: field.name, text, isWrong: problemOf(field, value, card) !== "", hint: hintOf(field, value) };
  });
  const stops = stopTexts(settings.stop);
  const others = [
    stops.length > 0 && { name: "stop", text: stops.length === 1 ? `Stop at “${stops[0].slice(0, 20)}”` : `${stops.length} stop texts`, isWrong: stopProblemOf(stops) !== "" },
    settings.effort && { name: "effort", text: `Reasoning: ${settings.effort}` },
    settings.logprobs && { name: "logprobs", text: "Token probabilities" },
  ];
  return [...numbers, ...others.filter(Boolean).map((each) => ({ isWrong: false, hint: "", ...each }))];
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
