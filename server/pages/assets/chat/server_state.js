// Which models the server has, and whether it answers: asked for again and again, since both change.

import { getJson } from "../shared/api.js";
import { byId } from "../shared/dom.js";
import { canChat } from "./capabilities.js";
import { cardOf, modelOf, setModels } from "./models/chooser.js";
import { page } from "./page.js";

const RETRY_MS = 2000;
const FOLLOW_MS = 30_000; // beside the moments at which the list is opened or the page is looked at again

let isFollowing = false;
let wake = () => {}; // ends the pause between two requests
let told = null; // what this file has said of the server

/**
 * Ask for the models now, and from then on follow them. `onKey(reason)` asks for a key and returns whether there is one.
 */
export async function connect(onKey) {
  if (isFollowing) return wake();
  isFollowing = true;
  byId("model").addEventListener("pointerdown", () => wake());
  byId("model").addEventListener("focus", () => wake());
  document.addEventListener("visibilitychange", () => document.hidden || wake());
  for (;;) {
    const pauseMs = await askForModels(onKey);
    await new Promise((resolve) => {
      wake = resolve;
      if (pauseMs !== Infinity) setTimeout(() => document.hidden || resolve(), pauseMs);
    });
  }
}

/** Ask for the models, and return after how many milliseconds to ask again. */
async function askForModels(onKey) {
  try {
    const { data } = await getJson("v1/models");
    setModels(data);
    const models = data.filter(canChat);
    const isReady = models.some((model) => model.max_model_len != null);
    tell(isReady ? "" : data.length > 0 && models.length === 0 ? "No model here can chat" : "Loading the model…");
    return isReady ? FOLLOW_MS : RETRY_MS;
  } catch (error) {
    tell(error.wantsKey ? "A key is needed" : error.message, { isBad: true });
    if (!error.wantsKey) return RETRY_MS;
    return (await onKey(error.keyReason)) ? 0 : Infinity;
  }
}

/** Say what has changed, and leave what others have said of the server in the meantime. */
function tell(text, options) {
  if (text !== told) setState(text, options);
  told = text;
}

/** Say in the page's head what is wrong with the server; "" is nothing. */
export function setState(text, { isBad = false } = {}) {
  const state = byId("server-state");
  state.textContent = text;
  state.classList.toggle("bad", isBad);
}

/** This model, or the conversation's if the server no longer has this. */
export const offered = (name) => (cardOf(name) ? name : model());

/** The model of the shown conversation. */
export const model = () => modelOf(page.current);
