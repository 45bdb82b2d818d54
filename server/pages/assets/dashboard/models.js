// The server's models: which one's engine is shown, and what each takes of the memory.

import { getJson } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";
import { shortNames } from "../shared/names.js";
import { engineNames } from "../shared/engines.js";
import { modelRows } from "./model_rows.js";

const REFRESH_MS = 5000;
const COLUMNS = ["Model", "State", "Context", "Weights", "KV cache", "Room for adapters"];

let refreshedMs = 0;

/** Offer the server's models, each by its first name; nothing is to choose where there is one. */
export async function offerModels(signal) {
  const { data } = await getJson("v1/models", { signal });
  const names = engineNames(data);
  const labels = shortNames(names);
  const select = byId("model");
  const chosen = select.value;
  select.hidden = names.length < 2;
  select.replaceChildren(...names.map((name, index) => h("option", { value: name, title: name, selected: name === chosen }, labels[index])));
  showModels(data);
}

/** Look at the models again, unless that was done a moment ago: they come and go. */
export async function refreshModels(signal) {
  if (Date.now() - refreshedMs < REFRESH_MS) return;
  refreshedMs = Date.now();
  const cards = await getJson("v1/models", { signal }).catch(() => null); // the frames tell of a server that is lost
  if (cards) showModels(cards.data);
}

function showModels(cards) {
  refreshedMs = Date.now();
  const rows = modelRows(cards);
  const isShown = (_, column) => column < 5 || rows.some(({ cells }) => cells[4] !== "–" && cells[4] !== "");
  byId("models").replaceChildren(
    h("thead", {}, h("tr", {}, COLUMNS.filter(isShown).map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(({ name, title, isAdapter, cells }) =>
      h("tr", { class: isAdapter ? "adapter" : "" }, [name, ...cells].filter(isShown).map((text, column) => h("td", column ? {} : { title }, text))))),
  );
}

/** Where the frames of the chosen model come from. */
export function eventsPath() {
  const select = byId("model");
  return select.hidden ? "dashboard/events" : `dashboard/events?model=${encodeURIComponent(select.value)}`;
}
