// The panel of settings: what holds for this conversation, and what for all answers.

import { byId, h } from "../../shared/dom.js";
import { EFFORTS, FIELDS, hintOf, ownValue, parseValue, problemOf, textProblemOf } from "./settings.js";

const SCHEMA_EXAMPLE = JSON.stringify(
  { type: "object", properties: { name: { type: "string" }, year: { type: "integer" } }, required: ["name", "year"], additionalProperties: false },
  null, 2,
);
const TOOL_EXAMPLE = JSON.stringify(
  [{ name: "get_weather", description: "The weather in a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }],
  null, 2,
);

/**
 * Fill the panel. `onConversation` and `onSettings` are called when something was changed. `card`: of the model that
 * answers. `presets`: {names, current, use, save, remove}.
 */
export function renderSettings({ conversation, settings, card, presets, onConversation, onSettings, onReset, onClose }) {
  const change = (target, name, onChange) => (value) => {
    target[name] = value;
    onChange();
  };
  byId("settings").replaceChildren(
    h("div", { class: "settings-head" },
      h("h2", {}, "Settings"),
      h("button", { class: "icon", "aria-label": "Close the settings", onclick: onClose }, "✕")),
    presetRow(presets),
    h("h3", {}, "This conversation"),
    area("system", "System prompt", "Who the model is, and how it should answer.", conversation.system, change(conversation, "system", onConversation), { rows: 4 }),
    area("schema", "JSON schema", "Every answer is valid JSON for this schema.", conversation.schema, change(conversation, "schema", onConversation), { rows: 4, isJson: true, example: SCHEMA_EXAMPLE }),
    area("tools", "Tools", "Functions the model may call. You type their results.", conversation.tools, change(conversation, "tools", onConversation), { rows: 4, isJson: true, example: TOOL_EXAMPLE }),
    h("h3", {}, "All answers from now on"),
    ...FIELDS.map((field) => number(field, settings[field.name], change(settings, field.name, onSettings), card)),
    area("stop", "Stop texts", "The answer ends before any of these texts. One per line.", settings.stop, change(settings, "stop", onSettings), { rows: 2 }),
    effort(settings.effort, change(settings, "effort", onSettings)),
    checkbox("logprobs", "Show token probabilities", "Hover over a token to see what else was likely.", settings.logprobs, change(settings, "logprobs", onSettings)),
    h("div", { class: "row" }, h("button", { onclick: onReset }, "Reset to defaults")),
  );
}

/** What is saved under a name, to be used again; the name of what is in force is shown. */
export function presetRow({ names, current, use, save, remove }) {
  const select = h("select", { "aria-label": "Preset", name: "preset", disabled: names.length === 0 },
    h("option", { value: "", disabled: names.length > 0 }, names.length === 0 ? "No presets yet" : "Choose a preset"),
    names.map((name) => h("option", { value: name, selected: name === current }, name)));
  if (!current) select.value = "";
  select.addEventListener("change", () => use(select.value));
  return h("div", { class: "row presets" },
    select,
    h("button", { class: "small", onclick: save, title: "Save the settings, the system prompt, the schema and the tools under a name" }, "Save as…"),
    current ? h("button", { class: "icon tiny", "aria-label": `Delete the preset “${current}”`, title: "Delete it", onclick: () => remove(current) }, "✕") : null);
}

let lastId = 0;

function labeled(label, meaning, control) {
  const id = `field-${++lastId}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-meaning`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, h("p", { class: "meaning", id: `${id}-meaning` }, meaning));
}

/** A field for a number. It is text, so that what is no number stays there to be corrected; ↑ and ↓ change it by a step. */
function number(field, value, onChange, card) {
  const { name, label, unit, step } = field;
  const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", name, placeholder: ownValue(field, card), value });
  const state = h("p", { class: "problem", role: "status" });
  const check = (now) => {
    const problem = problemOf(field, now, card);
    state.textContent = problem || hintOf(field, now);
    state.classList.toggle("mild", problem === "");
    input.setAttribute("aria-invalid", String(problem !== ""));
  };
  const set = () => (onChange(parseValue(input.value)), check(parseValue(input.value)));
  input.addEventListener("input", set);
  input.addEventListener("keydown", (event) => {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const now = parseValue(input.value) ?? card?.headrace.default_sampling_params?.[name] ?? field.min ?? 1;
    if (typeof now !== "number") return;
    const next = Number((now + direction * step).toFixed(6));
    if (problemOf(field, next, card)) return;
    input.value = next;
    set();
  });
  check(value);
  const whole = labeled(unit ? `${label} in ${unit}s` : label, field.meaning, input);
  input.after(state);
  return whole;
}

function area(name, label, meaning, value, onChange, { rows, isJson = false, example = "" }) {
  const input = h("textarea", { name, rows, spellcheck: isJson ? "false" : "true", class: isJson ? "code-input" : "" });
  input.value = value;
  const state = h("p", { class: "problem", role: "status" });
  const check = () => {
    state.textContent = textProblemOf(name, input.value);
    input.setAttribute("aria-invalid", String(state.textContent !== ""));
  };
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

function effort(value, onChange) {
  const input = h("select", { name: "effort" }, ["", ...EFFORTS].map((each) => h("option", { value: each, selected: each === value }, each || "the model's own")));
  input.addEventListener("change", () => onChange(input.value));
  return labeled("Reasoning effort", "How much a reasoning model thinks before it answers.", input);
}

function checkbox(name, label, meaning, value, onChange) {
  const input = h("input", { type: "checkbox", name, checked: value });
  input.addEventListener("change", () => onChange(input.checked));
  const field = labeled(label, meaning, input);
  field.classList.add("check");
  return field;
}
