// Presets: what the settings hold, for all answers and for the conversation, saved in the browser under a name.

import { keep, kept } from "../../shared/kept.js";
import { tell } from "../storage/tabs.js";
import { FIELDS } from "./settings.js";

const KEY = "headrace.presets";
const OF_CONVERSATION = ["system", "schema", "tools"];
const OF_ALL = [...FIELDS.map(({ name }) => name), "stop", "logprobs", "effort"];

/** The saved presets by name, in the order of their names. */
export function loadPresets() {
  try {
    const presets = Object.entries(JSON.parse(kept(KEY) ?? "{}"));
    return new Map(presets.sort(([a], [b]) => a.localeCompare(b)));
  } catch {
    return new Map();
  }
}

export function savePreset(name, preset) {
  store({ ...Object.fromEntries(loadPresets()), [name]: preset });
}

export function deletePreset(name) {
  const presets = loadPresets();
  presets.delete(name);
  store(Object.fromEntries(presets));
}

function store(presets) {
  keep(KEY, JSON.stringify(presets));
  tell("presets");
}

/** What is in force, as a preset. */
export const presetOf = (settings, conversation) => ({ settings: pick(settings, OF_ALL), conversation: pick(conversation, OF_CONVERSATION) });

/** The name of the preset that is in force, or "". */
export function presetInForce(settings, conversation) {
  const now = JSON.stringify(presetOf(settings, conversation));
  return [...loadPresets()].find(([, preset]) => JSON.stringify(presetOf(preset.settings, preset.conversation)) === now)?.[0] ?? "";
}

const pick = (values, names) => Object.fromEntries(names.filter((name) => values[name] !== undefined).map((name) => [name, values[name]]));
