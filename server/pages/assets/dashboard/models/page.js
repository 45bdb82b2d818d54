// The models: those that are served, to load and unload, and fetches of others into the server's cache.

import { getJson, sendJson } from "../../shared/api.js";
import { byId, h } from "../../shared/dom.js";
import { engineNames } from "../../shared/engines.js";
import { size } from "../model_rows.js";
import { withKey } from "../operator_key.js";
import { place } from "../placing.js";
import { setState } from "../state.js";
import { untilSeen } from "../watching.js";
import { showActions } from "./actions.js";
import { pullsView } from "./pulls.js";
import { changeOf, isOpen, stateOf } from "./words.js";

const REFRESH_MS = 2000;
const BUSY_MS = 1000; // while something loads or arrives

let showing = null; // AbortController

/** Show the models and follow them, until `leaveModels`. */
export async function showModels() {
  const { signal } = (showing = new AbortController());
  let wake = () => {};
  const refresh = () => wake();
  const served = servedView(refresh);
  const pulls = pullsView(refresh);
  const body = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  byId("models-page").replaceChildren(h("h1", {}, "Models"), body);
  let isShown = false;
  while (!signal.aborted) {
    let isBusy = false;
    const mayGoOn = await withKey(async (ofAttempt) => {
      const [{ data }, report] = await Promise.all([getJson("v1/models", { signal: ofAttempt }), getJson("dashboard/pulls", { signal: ofAttempt })]);
      if (signal.aborted) return;
      setState("");
      if (!isShown) body.replaceChildren(served.element, pulls.element);
      isShown = true;
      isBusy = served.update(data) || report.pulls.some(isOpen);
      pulls.update(report);
    }, signal);
    if (!mayGoOn) {
      if (!signal.aborted) body.replaceChildren(h("p", { class: "note" }, byId("state").textContent));
      return;
    }
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, isBusy ? BUSY_MS : REFRESH_MS);
    });
    await untilSeen();
  }
}

export const leaveModels = () => showing?.abort();

/** {element, update(cards)}; `update` returns whether a model is on its way in or out. */
function servedView(refresh) {
  const list = h("div", { class: "served-models" });
  const hint = h("p", { class: "muted small", hidden: true },
    "These models stay loaded. With ", h("code", {}, "--load-on-demand"), " or ", h("code", {}, "--idle-unload"), ", models can be loaded and unloaded here.");
  return {
    element: h("section", { class: "card" }, h("h2", {}, "Served"), list, hint),
    update(cards) {
      const names = engineNames(cards);
      const models = cards.filter((card) => card.parent == null && names.includes(card.id));
      place(list, models, (card) => card.id, (card, old) => servedRow(card, old, refresh), "No model may be seen with this key.");
      hint.hidden = models.some(({ headrace: own }) => own.memory_bytes !== undefined);
      return models.some(({ headrace: { state } }) => state === "loading" || state === "unloading");
    },
  };
}

function servedRow({ id, headrace: own, max_model_len: context }, old, refresh) {
  const row = old ?? h("div", { class: "served-model", role: "group", tabindex: "-1", "aria-label": id },
    h("b", { title: id }, id), h("span", { class: "job-status", role: "status" }), h("span", { class: "muted" }), h("span", { class: "pull-actions" }), h("p", { class: "pull-fit bad", role: "alert", hidden: true }));
  const [, status, facts, actions, fault] = row.children;
  const { text, mood } = stateOf(own);
  if (status.textContent !== text) status.textContent = text;
  status.className = `job-status ${mood}`;
  facts.textContent = [
    own.memory_bytes ? `${size(own.memory_bytes)} of memory` : own.weight_bytes ? `${size(own.weight_bytes)} of weights` : null,
    context ? `${context.toLocaleString("en-US")} tokens` : null,
  ].filter(Boolean).join(" · ");
  if (own.state === "failed" && own.reason) [fault.textContent, fault.hidden] = [own.reason, false];
  else if (!row.hasFault) fault.hidden = true;
  const change = changeOf(own);
  if (row.change !== change) {
    row.change = change;
    showActions(actions, change ? [changeButton(id, change, row, fault, refresh)] : []);
  }
  return row;
}

function changeButton(id, change, row, fault, refresh) {
  const label = change === "load" ? "Load" : "Unload";
  return h("button", {
    class: "small",
    "aria-label": `${label} ${id}`,
    onclick: async () => {
      [row.hasFault, fault.hidden] = [false, true];
      setTimeout(refresh, 100); // the answer comes when it is done, and the state shows until then
      try {
        await sendJson("POST", `v1/models/${id.split("/").map(encodeURIComponent).join("/")}/${change}`);
      } catch (error) {
        [row.hasFault, fault.hidden, fault.textContent] = [true, false, error.message];
      }
      refresh();
    },
  }, label);
}
