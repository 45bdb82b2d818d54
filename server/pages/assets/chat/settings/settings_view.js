// The panel of settings: what holds for this conversation, and what for all answers.

import { byId, h } from "../../shared/dom.js";
import { FIELDS } from "./settings.js";

const SCHEMA_EXAMPLE = JSON.stringify(
  { type: "object", properties: { name: { type: "string" }, year: { type: "integer" } }, required: ["name", "year"], additionalProperties: false },
  null, 2,
);
const TOOL_EXAMPLE = JSON.stringify(
  [{ name: "get_weather", description: "The weather in a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }],
  null, 2,
);

/** Fill the panel. `onConversation` and `onSettings` are called when something was changed. */
export function renderSettings({ conversation, settings, onConversation, onSettings, onClose }) {
  const change = (target, name, onChange) => (value) => {
    target[name] = value;
    onChange();
  };
  byId("settings").replaceChildren(
    h("div", { class: "settings-head" },
      h("h2", {}, "Settings"),
      h("button", { class: "icon", "aria-label": "Close the settings", onclick: onClose }, "✕")),
    h("h3", {}, "This conversation"),
    area("System prompt", "Who the model is, and how it should answer.", conversation.system, change(conversation, "system", onConversation), { rows: 4 }),
    area("JSON schema", "Every answer is valid JSON for this schema.", conversation.schema, change(conversation, "schema", onConversation), { rows: 4, isJson: true, example: SCHEMA_EXAMPLE }),
    area("Tools", "Functions the model may call. You type their results.", conversation.tools, change(conversation, "tools", onConversation), { rows: 4, isJson: true, example: TOOL_EXAMPLE }),
    h("h3", {}, "All answers from now on"),
    ...FIELDS.map((field) => number(field, settings[field.name], change(settings, field.name, onSettings))),
    area("Stop texts", "The answer ends before any of these texts. One per line.", settings.stop, change(settings, "stop", onSettings), { rows: 2 }),
    effort(settings.effort, change(settings, "effort", onSettings)),
    checkbox("Show token probabilities", "Hover over a token to see what else was likely.", settings.logprobs, change(settings, "logprobs", onSettings)),
    h("div", { class: "row" }, h("button", { onclick: () => reset(settings, onSettings) }, "Reset to defaults")),
  );
}

function reset(settings, onSettings) {
  for (const { name } of FIELDS) delete settings[name];
  Object.assign(settings, { stop: "", logprobs: false, effort: "" });
  onSettings({ isReset: true });
}

let lastId = 0;

function labeled(label, meaning, control) {
  const id = `field-${++lastId}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-meaning`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, h("p", { class: "meaning", id: `${id}-meaning` }, meaning));
}

function number({ label, meaning, min, max, step }, value, onChange) {
  const input = h("input", { type: "number", inputmode: "decimal", min, max, step, placeholder: "default", value });
  input.addEventListener("input", () => onChange(input.value !== "" && input.validity.valid ? input.valueAsNumber : undefined));
  return labeled(label, meaning, input);
}

function area(label, meaning, value, onChange, { rows, isJson = false, example = "" }) {
  const input = h("textarea", { rows, spellcheck: isJson ? "false" : "true", class: isJson ? "code-input" : "" });
  input.value = value;
  const state = h("p", { class: "problem", role: "status" });
  const check = () => (state.textContent = isJson ? problem(input.value) : "");
  input.addEventListener("input", () => (onChange(input.value), check()));
  check();
  const field = labeled(label, meaning, input);
  field.append(state);
  if (example) {
    const fill = () => {
      input.value = example;
      input.dispatchEvent(new Event("input"));
    };
    field.append(h("button", { class: "quiet small", onclick: fill }, "Insert an example"));
  }
  return field;
}

function problem(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `This is not valid JSON yet: ${error.message}`;
  }
}

function effort(value, onChange) {
  const input = h("select", {}, ["", "none", "low", "medium", "high"].map((each) => h("option", { value: each, selected: each === value }, each || "default")));
  input.addEventListener("change", () => onChange(input.value));
  return labeled("Reasoning effort", "How much a reasoning model thinks before it answers.", input);
}

function checkbox(label, meaning, value, onChange) {
  const input = h("input", { type: "checkbox", checked: value });
  input.addEventListener("change", () => onChange(input.checked));
  const field = labeled(label, meaning, input);
  field.classList.add("check");
  return field;
}
