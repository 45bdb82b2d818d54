// How many tokens a request has, as the server counts them.

import { sendJson } from "../../shared/api.js";
import { requestBody } from "../request.js";

let counted = { request: "", numTokens: 0 }; // the last count

/**
 * The request that counts a conversation with `draft`, {content, attachments}, or "" where there is nothing to count, or the
 * model is not there to do so.
 */
export function countingRequest(conversation, draft, card) {
  if (card.headrace.state !== "loaded" || draft.attachments.some(({ isReading }) => isReading)) return "";
  try {
    const node = { id: "draft", parentId: conversation.leafId, role: "user", ...draft };
    const isDraft = draft.content.trim() !== "" || draft.attachments.length > 0;
    const whole = isDraft ? { ...conversation, leafId: "draft", nodes: { ...conversation.nodes, draft: node } } : conversation;
    const { model, messages, tools } = requestBody(whole, { stop: "" }, card.id);
    return messages.length > 0 && messages.at(-1).role !== "assistant" ? JSON.stringify({ model, messages, tools }) : "";
  } catch {
    return ""; // the settings are wrong, which is said where they are
  }
}

/** What the server has counted for this request, if it was the last one; or null. */
export const knownCount = (request) => (request !== "" && request === counted.request ? counted.numTokens : null);

/** Ask the server to count; null where it does not. */
export async function countTokens(request, { signal } = {}) {
  try {
    const { count: numTokens } = await sendJson("POST", "tokenize", JSON.parse(request), { signal });
    counted = { request, numTokens };
    return numTokens;
  } catch {
    return null;
  }
}
