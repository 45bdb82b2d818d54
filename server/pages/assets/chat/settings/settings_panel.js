// The panel of settings, open or closed, and what of them is in force, at the page's foot.

import { byId, h } from "../../shared/dom.js";
import { showMeter } from "../composer/meter.js";
import { askText } from "../dialogs.js";
import { cardOf, chooseRival, modelOf, modelsOf, setRival } from "../models/chooser.js";
import { nameOf } from "../models/model_list.js";
import { say } from "../notices.js";
import { conversationOfId, page, settings } from "../page.js";
import { saveHead } from "../storage/saving.js";
import { deletePreset, loadPresets, presetInForce, presetOf, savePreset } from "./presets.js";
import { inForce, replaceSettings, saveSettings, switchOff, textProblemOf } from "./settings.js";
import { presetRow, renderSettings } from "./settings_view.js";

const MODES = [["schema", "JSON schema"], ["tools", "Tools"], ["system", "System prompt"]];

const isOpen = () => !byId("settings").hidden;
let isOutdated = false; // whether the panel shows models as they were
const card = () => cardOf(modelOf(page.current));

/** Open the panel, with `name` at that field. */
export function openSettings(name = "") {
  isOutdated = false;
  const wasOpen = isOpen();
  byId("settings").hidden = false;
  const conversation = page.current;
  renderSettings({
    conversation,
    settings,
    card: card(),
    presets: presets(),
    onConversation: () => (saveSettingsOf(conversation), changed()),
    onSettings: () => (saveSettings(settings), changed()),
    onReset: () => replaceAll({ ...presetOf(settings, conversation), settings: {} }, "All answers are as the model has them by itself."),
    onClose: closeSettings,
  });
  if (name) focusField(name);
  else if (!wasOpen) byId("settings").querySelector("button").focus();
}

function changed() {
  showModes();
  byId("settings").querySelector(".presets").replaceWith(presetRow(presets()));
}

function presets() {
  return { names: [...loadPresets().keys()], current: presetInForce(settings, page.current), use: usePreset, save: savePresetAs, remove: removePreset };
}

function focusField(name) {
  const field = byId("settings").querySelector(`[name="${name}"]`);
  field?.focus();
  field?.closest(".field").scrollIntoView({ block: "center" });
}

/** Close the panel. Returns whether it was open. */
export function closeSettings() {
  if (!isOpen()) return false;
  byId("settings").hidden = true;
  byId("open-settings").focus();
  return true;
}

export function switchSettings() {
  if (!closeSettings()) openSettings();
}

/** Show another conversation's settings, or changed ones, if the panel is open. What is being typed there stays. */
export function refreshSettings() {
  if (!isOpen()) return;
  const focused = byId("settings").contains(document.activeElement) ? document.activeElement.name : "";
  const scrolled = byId("settings").scrollTop;
  openSettings();
  byId("settings").scrollTop = scrolled;
  if (focused) byId("settings").querySelector(`[name="${focused}"]`)?.focus();
}

/**
 * Show in the panel what has changed of the models, now or at a call before this one, unless a field there has the focus:
 * its caret and an open list would be lost.
 */
export function refreshSettingsAtRest(hasChanged) {
  isOutdated ||= hasChanged;
  const field = document.activeElement?.closest("input, textarea, select");
  if (isOutdated && !(field && byId("settings").contains(field))) refreshSettings();
}

/** Show what makes the next answer differ from the model's own way, where it can be seen and switched off. */
export function showModes() {
  const ofConversation = MODES.filter(([name]) => page.current[name].trim()).map(([name, label]) => chip({ name, label, isWrong: textProblemOf(name, page.current[name]) !== "" }, () => {
    page.current[name] = "";
    saveSettingsOf(page.current);
  }));
  const ofAll = inForce(settings, card()).map(({ name, text, isWrong, hint }) => chip({ name, label: text, isWrong, hint }, () => {
    switchOff(settings, name);
    saveSettings(settings);
  }));
  const [, rival] = modelsOf(page.current);
  const beside = rival ? [chip({ name: "rival", label: `Beside ${nameOf(rival)}` }, () => setRival(page.current, ""), chooseRival)] : [];
  byId("modes").replaceChildren(...beside, ...ofConversation, ...ofAll);
  showMeter();
}

function chip({ name, label, isWrong = false, hint = "" }, remove, change = () => openSettings(name)) {
  const removed = () => {
    remove();
    showModes();
    refreshSettings();
    (byId("modes").querySelector("button") ?? byId("input")).focus();
  };
  const title = isWrong ? "This is wrong: nothing can be sent with it. Correct it" : `${hint} Change it`.trim();
  return h("span", { class: `mode${isWrong ? " wrong" : ""}${hint ? " unusual" : ""}` },
    h("button", { type: "button", class: "quiet small", title, onclick: change }, isWrong ? `${label} is wrong` : label),
    h("button", { type: "button", class: "icon tiny", "aria-label": `Remove: ${label}`, onclick: removed }, "✕"));
}

/** A conversation is stored from its first question on. */
function saveSettingsOf(conversation) {
  if (conversationOfId(conversation.id)) saveHead(conversation, MODES.map(([name]) => name));
}

// --- presets ----------------------------------------------------------------------------------------------------------

function usePreset(name) {
  replaceAll(loadPresets().get(name), `The preset “${name}” is in force.`);
}

/** Put a preset in place of what the settings hold, which can be undone. */
function replaceAll(preset, text) {
  const conversation = page.current;
  const before = presetOf(settings, conversation);
  const put = (values) => {
    replaceSettings(settings, values.settings);
    saveSettings(settings);
    Object.assign(conversation, { system: "", schema: "", tools: "" }, values.conversation);
    saveSettingsOf(conversation);
    showModes();
    refreshSettings();
  };
  put(preset);
  say(text, () => put(before));
}

async function savePresetAs() {
  const name = await askText("Name of the preset", presetInForce(settings, page.current));
  if (!name) return;
  const old = loadPresets().get(name);
  savePreset(name, presetOf(settings, page.current));
  refreshSettings();
  say(old ? `Replaced the preset “${name}”.` : `Saved the preset “${name}” in this browser.`, old ? () => (savePreset(name, old), refreshSettings()) : null);
}

function removePreset(name) {
  const preset = loadPresets().get(name);
  deletePreset(name);
  refreshSettings();
  say(`Deleted the preset “${name}”. What it set stays in force.`, () => (savePreset(name, preset), refreshSettings()));
}
