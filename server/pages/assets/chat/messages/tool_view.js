// Calls of tools as cards. The page runs none: the user types the results.

import { h } from "../../shared/dom.js";

/** Cards for the calls of `node`, and with `onResults` fields for their results, which it is called with. */
export function toolCallCards(node, onResults) {
  if (node.toolCalls.length === 0) return [];
  const fields = node.toolCalls.map((call, index) =>
    h("textarea", { rows: "2", placeholder: "What the tool answers", "aria-label": `Result of ${call.name}, call ${index + 1}` }),
  );
  const cards = node.toolCalls.map((call, index) =>
    h(
      "section", { class: "call", "aria-label": `Call of ${call.name}` },
      h("div", { class: "call-name" }, call.name || "…"),
      h("pre", { tabindex: "0" }, pretty(call.arguments)),
      onResults ? fields[index] : null,
    ),
  );
  if (!onResults) return cards;
  const send = () => onResults(node.toolCalls.map((call, index) => ({ call, content: fields[index].value })));
  return [...cards, h("div", { class: "row" }, h("button", { onclick: send }, "Send results"))];
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // still arriving, or cut
  }
}
