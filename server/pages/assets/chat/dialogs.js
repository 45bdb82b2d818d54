// The page's dialogs: a key, the request as code, a line of text, help with the keyboard.

import { savedKey, saveKey } from "../shared/api.js";
import { count } from "../shared/count.js";
import { byId, copyButton, h } from "../shared/dom.js";
import { modelNote } from "./models/model_list.js";
import { examples } from "./request.js";
import { shortcuts } from "./shortcuts.js";

function show(title, ...content) {
  const dialog = byId("dialog");
  dialog.replaceChildren(h("h2", { id: "dialog-title" }, title), ...content);
  dialog.returnValue = ""; // some browsers leave it at Escape: it would be the answer to the question before
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

const close = (value = "") => byId("dialog").close(value);

/** Ask for the server's key. Returns whether one was entered. */
export async function askKey(reason) {
  const key = h("input", { type: "password", autocomplete: "off", "aria-label": "Key", placeholder: "Key", class: "grow", required: true });
  const remember = h("input", { type: "checkbox" });
  key.value = savedKey();
  const form = h("form", { method: "dialog" },
    h("p", {}, reason),
    h("div", { class: "row" }, key),
    h("p", {}, h("label", {}, remember, " Remember it in this browser")),
    h("div", { class: "row end" },
      h("button", { type: "button", onclick: () => close() }, "Cancel"),
      h("button", { class: "primary", value: "entered" }, "Use this key")));
  const entered = (await show("Key", form)) === "entered";
  if (entered) saveKey(key.value.trim(), remember.checked);
  return entered;
}

/** Show `body` as a request for a terminal and for programs. */
export function showCode(body) {
  const texts = examples(body, new URL(".", location.href).href, Boolean(savedKey()));
  const code = h("code", {});
  const pre = h("pre", { class: "example", tabindex: "0" }, code);
  const tabs = Object.keys(texts).map((name) => h("button", { role: "tab", onclick: () => choose(name) }, name));
  const choose = (name) => {
    code.textContent = texts[name];
    for (const tab of tabs) tab.setAttribute("aria-selected", String(tab.textContent === name));
  };
  choose("curl");
  return show("This conversation over the API",
    h("p", { class: "muted" }, "The same request for programs, with your settings. Ready to paste and run."),
    h("div", { class: "row" }, h("div", { role: "tablist", class: "tabs" }, tabs), h("span", { class: "spread" }), copyButton(() => code.textContent)),
    pre,
    h("div", { class: "row end" }, h("a", { class: "button", href: "docs", target: "_blank" }, "All of the API"), h("button", { class: "primary", onclick: () => close() }, "Close")));
}

/** Ask for a line of text; null if the question was left. */
export async function askText(title, value) {
  const input = h("input", { type: "text", "aria-label": title, class: "grow" });
  input.value = value;
  const form = h("form", { method: "dialog" },
    h("div", { class: "row" }, input),
    h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Cancel"), h("button", { class: "primary", value: "ok" }, "OK")));
  return (await show(title, form)) === "ok" ? input.value.trim() : null;
}

/** Ask for one of the models in `groups`, without `except`; "" if none was chosen. */
export function askModel(title, text, groups, except) {
  const choices = groups.flatMap(({ members }) => members).filter(({ id }) => id !== except);
  const button = ({ id, label, card }) => h("button", { class: card.parent ? "choice adapter" : "choice", value: id, title: id }, h("span", {}, label), h("span", { class: "muted small" }, modelNote(card)));
  const checkpoints = choices.filter(({ isCheckpoint }) => isCheckpoint).map(button);
  const more = checkpoints.length > 0 ? h("details", {}, h("summary", {}, count(checkpoints.length, "checkpoint")), h("div", { class: "choices" }, checkpoints)) : null;
  return show(title,
    h("p", { class: "muted" }, text),
    h("form", { method: "dialog", class: "choices" }, choices.filter(({ isCheckpoint }) => !isCheckpoint).map(button), more),
    h("div", { class: "row end" }, h("button", { onclick: () => close() }, "Cancel")));
}

export function showMessage(title, text) {
  return show(title, h("p", {}, text), h("div", { class: "row end" }, h("button", { class: "primary", onclick: () => close() }, "Close")));
}

/** Name all settings that are wrong: {name, label, text} of each. Returns the name of the one to correct, or "". */
export function showProblems(problems) {
  const row = ({ name, label, text }) => h("li", {},
    h("span", { class: "grow" }, h("strong", {}, label), ` ${text}`),
    h("button", { "aria-label": `Correct ${label}`, onclick: () => close(name) }, "Correct it"));
  return show("The request cannot be sent",
    h("p", {}, problems.length === 1 ? "A setting is wrong. What you have written stays in its field." : `${problems.length} settings are wrong. What you have written stays in its field.`),
    h("ul", { class: "problems" }, problems.map(row)),
    h("div", { class: "row end" }, h("button", { onclick: () => close() }, "Close")));
}

/**
 * Say why a message is not sent. `other`: a model that has room, or null; `isOfSetting`: whether the maximum length takes
 * the room. Returns "model" to send it there, "setting" to change that length, or "".
 */
export function showOverflow(text, { other, isOfSetting }) {
  const send = other && h("button", { class: "primary", onclick: () => close("model") }, `Send it to ${other.label} (${other.card.max_model_len.toLocaleString("en-US")})`);
  const change = isOfSetting && h("button", { onclick: () => close("setting") }, "Change the maximum length");
  return show("The message does not fit",
    h("p", {}, text),
    h("div", { class: "row end" }, h("button", { onclick: () => close() }, "Close"), change, send));
}

export function showKeys() {
  return show("Keyboard",
    h("table", { class: "keys" }, shortcuts().map(([keys, what]) => h("tr", {}, h("td", {}, keys.map((key) => h("kbd", {}, key))), h("td", {}, what)))),
    h("div", { class: "row end" }, h("button", { class: "primary", onclick: () => close() }, "Close")));
}
