// What the last requests found in the KV cache, and how soon their first tokens came.

import { byId, h } from "../shared/dom.js";
import { requestLink } from "../shared/links.js";
import { seconds } from "./words.js";

const MAX_ROWS = 4;

/** recent: newest first. hasCache: not while a model is loaded, or where it only makes vectors or scores. */
export function renderCache(recent, hasCache) {
  const rows = recent.filter((each) => each.prompt_tokens && each.first_token_s != null).slice(0, MAX_ROWS);
  byId("cache-hint").textContent = !hasCache ? "This model has no KV cache, or is not loaded." : rows.length > 1
    ? "What is in the cache is not computed again, so the first token comes sooner."
    : "Ask a second question in the same chat: most of its prompt will be here, and its first token will come sooner.";
  byId("cache-uses").replaceChildren(...(rows.length ? [
    h("thead", {}, h("tr", {}, ["Last prompts", "from the cache", "first token"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(row)),
  ] : []));
}

function row({ id, prompt_tokens: tokens, cached_tokens: cached, first_token_s: firstS }) {
  const share = cached ? `${cached.toLocaleString("en-US")} (${Math.floor((100 * cached) / tokens)} %)` : "none";
  return h("tr", { class: cached ? "hit" : "" },
    h("td", {}, h("a", { href: requestLink(id), title: id }, `${tokens.toLocaleString("en-US")} tokens`)), h("td", {}, share), h("td", {}, seconds(firstS)));
}
