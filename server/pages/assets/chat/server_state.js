// Which models the server has, and whether it answers.

import { getJson } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";
import { keep, kept } from "../shared/kept.js";
import { shortNames } from "../shared/names.js";
import { canChat } from "./capabilities.js";

const RETRY_MS = 2000;
const MODEL_KEY = "headrace.model";
const ASKED = new URLSearchParams(location.search).get("model"); // by a link to this page

let isConnecting = false;

/**
 * Ask for the models until the server tells them; once at a time. `onKey(reason)` asks for a key and returns whether
 * there is one.
 */
export async function connect(onKey) {
  if (isConnecting) return;
  isConnecting = true;
  await askForModels(onKey);
  isConnecting = false;
}

async function askForModels(onKey) {
  for (;;) {
    try {
      const { data } = await getJson("v1/models");
      const models = data.filter(canChat);
      showModels(models);
      const isReady = models.some((model) => model.max_model_len != null);
      setState(isReady ? "" : data.length > 0 && models.length === 0 ? "No model here can chat" : "Loading the model…");
      if (isReady) return;
    } catch (error) {
      setState(error.wantsKey ? "A key is needed" : error.message, { isBad: true });
      if (error.wantsKey) {
        if (await onKey(error.keyReason)) continue;
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Say in the page's head what is wrong with the server; "" is nothing. */
export function setState(text, { isBad = false } = {}) {
  const state = byId("server-state");
  state.textContent = text;
  state.classList.toggle("bad", isBad);
}

function showModels(models) {
  const select = byId("model");
  const chosen = select.value || ASKED || kept(MODEL_KEY);
  const labels = shortNames(models.map(({ id }) => id));
  select.replaceChildren(...models.map(({ id }, index) => h("option", { value: id, title: id, selected: id === chosen }, labels[index])));
  select.title = select.value;
  select.onchange = () => keep(MODEL_KEY, select.value);
}

/** This model, or the chosen one if the server no longer has this. */
export const offered = (name) => ([...byId("model").options].some(({ value }) => value === name) ? name : model());

export const model = () => byId("model").value;
