// Which model's engine is shown, where the server has several.

import { getJson } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";
import { shortNames } from "../shared/names.js";
import { engineNames } from "./engines.js";

/** Offer the server's models, each by its first name; nothing is to choose where there is one. */
export async function offerModels(signal) {
  const { data } = await getJson("v1/models", { signal });
  const names = engineNames(data);
  const labels = shortNames(names);
  const select = byId("model");
  const chosen = select.value;
  select.hidden = names.length < 2;
  select.replaceChildren(...names.map((name, index) => h("option", { value: name, title: name, selected: name === chosen }, labels[index])));
}

/** Where the frames of the chosen model come from. */
export function eventsPath() {
  const select = byId("model");
  return select.hidden ? "dashboard/events" : `dashboard/events?model=${encodeURIComponent(select.value)}`;
}
