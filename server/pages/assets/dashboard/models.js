// Which model's engine is shown, where the server has several.

import { getJson } from "../shared/api.js";
import { byId, h } from "../shared/dom.js";

/** Offer the server's models, each by its first name; nothing is to choose where there is one. */
export async function offerModels(signal) {
  const { data } = await getJson("v1/models", { signal });
  const models = [...new Map(data.toReversed().map((model) => [model.root, model.id])).values()].toReversed();
  const select = byId("model");
  const chosen = select.value;
  select.hidden = models.length < 2;
  select.replaceChildren(...models.map((name) => h("option", { value: name, selected: name === chosen }, name.split("/").at(-1))));
}

/** Where the frames of the chosen model come from. */
export function eventsPath() {
  const select = byId("model");
  return select.hidden ? "dashboard/events" : `dashboard/events?model=${encodeURIComponent(select.value)}`;
}
