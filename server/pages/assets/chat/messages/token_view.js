// An answer token by token, with what the model held possible in each place.

import { h } from "../../shared/dom.js";

/** Show `tokens` in `container`; those that are there already stay. */
export function renderTokens(container, tokens) {
  for (const token of tokens.slice(container.children.length)) container.append(tokenElement(token));
}

function tokenElement({ text, probability, others }) {
  const level = Math.min(4, Math.floor((1 - probability) * 5)); // 0: sure
  const title = others.map((other) => `${percent(other.probability)}  ${visible(other.text)}`).join("\n");
  return h("span", { class: `token unsure-${level}`, title: `${percent(probability)}  ${visible(text)}\n\n${title}` }, text);
}

const percent = (share) => `${(share * 100).toFixed(1).padStart(5)} %`;
const visible = (text) => JSON.stringify(text);
