// The panel of settings, open or closed, and what it says of the next answer in the page's foot.

import { byId, h } from "../../shared/dom.js";
import { conversationOfId, page, settings } from "../page.js";
import { saveHead } from "../storage/saving.js";
import { saveSettings } from "./settings.js";
import { renderSettings } from "./settings_view.js";

const MODES = [["schema", "JSON schema"], ["tools", "Tools"], ["system", "System prompt"]];

const isOpen = () => !byId("settings").hidden;

export function openSettings() {
  byId("settings").hidden = false;
  const conversation = page.current;
  renderSettings({
    conversation,
    settings,
    onConversation: () => (saveSettingsOf(conversation), showModes()),
    onSettings: ({ isReset = false } = {}) => {
      saveSettings(settings);
      if (isReset) openSettings();
    },
    onClose: closeSettings,
  });
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

/** Show another conversation's settings, or changed ones, if the panel is open. */
export function refreshSettings() {
  if (isOpen()) openSettings();
}

/** What makes the next answer differ from plain text, where it can be seen and switched off. */
export function showModes() {
  byId("modes").replaceChildren(
    ...MODES.filter(([name]) => page.current[name].trim()).map(([name, label]) =>
      h("span", { class: "mode" },
        h("button", { type: "button", class: "quiet small", onclick: openSettings }, label),
        h("button", { type: "button", class: "icon tiny", "aria-label": `Remove: ${label}`, onclick: () => remove(name) }, "✕")),
    ),
  );
}

function remove(name) {
  page.current[name] = "";
  saveSettingsOf(page.current);
  showModes();
  refreshSettings();
}

/** A conversation is stored from its first question on. */
function saveSettingsOf(conversation) {
  if (conversationOfId(conversation.id)) saveHead(conversation, MODES.map(([name]) => name));
}
