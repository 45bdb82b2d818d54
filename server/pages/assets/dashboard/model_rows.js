// The served models as rows of a table. No element is made here: tests run it without a browser.

import { shortNames } from "../shared/names.js";
import { engineNames } from "../shared/engines.js";

const GIB = 2 ** 30;
const MIB = 2 ** 20;

/** Such as "92 MiB" or "4.0 GiB"; "–" for what is not known, or not there. */
export const size = (bytes) => (bytes ? (bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.max(1, Math.round(bytes / MIB))} MiB`) : "–");

/**
 * A row for each model of /v1/models, under its first name, with its adapters below it: {name, title, isAdapter, cells}.
 * The cells: state, context, weights, KV cache, room for adapters.
 */
export function modelRows(cards) {
  const firstNames = engineNames(cards);
  const models = cards.filter((card) => card.parent == null && firstNames.includes(card.id));
  const names = shortNames(models.map((card) => card.id));
  return models.flatMap((card, index) => {
    const { headrace: own, max_model_len: context } = card;
    const cells = [own.state, context ? `${context.toLocaleString("en-US")} tokens` : "–", size(own.weight_bytes), size(own.kv_cache_bytes), size(own.adapter_memory_bytes)];
    const adapters = cards.filter((each) => each.parent === own.name);
    return [{ name: names[index], title: card.id, isAdapter: false, cells }, ...adapters.map(adapterRow)];
  });
}

function adapterRow({ id, headrace: { adapter } }) {
  return { name: id, title: id, isAdapter: true, cells: [adapter ? `adapter, rank ${adapter.rank}` : "adapter", "", size(adapter?.size_bytes), "", ""] };
}
