// The line below the message field that tells how much of the model's context the conversation takes, before it is sent.

import { sendJson } from "../../shared/api.js";
import { byId, h } from "../../shared/dom.js";
import { cardOf, chooseModel, modelOf, models } from "../models/chooser.js";
import { fittingModel, nameOf } from "../models/model_list.js";
import { page, settings } from "../page.js";
import { requestBody } from "../request.js";
import { contextTokens, contextWords } from "./context.js";

const COUNT_AFTER_MS = 600; // since the last key
const COUNT_FROM = 0.25; // of the context: below, an estimate is enough

let draftOf = () => ({ content: "", attachments: [] });
let timer = null;
let counted = { request: "", numTokens: 0 }; // the server's last count

/** Tell where the message is that is being written: `getDraft()` returns {content, attachments}. */
export function meterWith(getDraft) {
  draftOf = getDraft;
}

/** Show what the next request would take. */
export function showMeter() {
  const { current } = page;
  const card = cardOf(modelOf(current));
  const draft = draftOf();
  const isEmpty = current.rootIds.length === 0 && draft.content.trim() === "" && draft.attachments.length === 0;
  const meter = byId("meter");
  clearTimeout(timer);
  meter.hidden = isEmpty || !card?.max_model_len;
  if (meter.hidden) return;
  const estimate = contextTokens(current, draft);
  const request = estimate > COUNT_FROM * card.max_model_len ? requestFor(current, draft, card) : "";
  const isExact = request !== "" && request === counted.request;
  if (request && !isExact) timer = setTimeout(() => count(request), COUNT_AFTER_MS);
  draw(meter, card, isExact ? counted.numTokens : estimate, isExact);
}

function draw(meter, card, numTokens, isExact) {
  const { max_model_len: limit, id } = card;
  const maxTokens = typeof settings.max_tokens === "number" ? settings.max_tokens : 0;
  const words = contextWords({ numTokens, isExact, limit, maxTokens, name: nameOf(id) });
  const other = words.isTooMuch ? fittingModel(models(), numTokens + maxTokens) : null;
  const key = JSON.stringify([words, other?.id, numTokens, limit]);
  if (meter.dataset.key === key) return; // a button that is about to be pressed stays
  meter.dataset.key = key;
  meter.classList.toggle("bad", words.isTooMuch);
  meter.replaceChildren(
    h("meter", { min: 0, max: limit, low: 0.7 * limit, high: 0.9 * limit, optimum: 0, value: Math.min(numTokens, limit), "aria-label": "Context in use" }),
    h("span", { title: "The conversation with what you write, of what the model takes with its answer" }, words.text),
    h("span", { role: "status" }, words.warning),
    ...(other ? [h("button", { type: "button", class: "small", onclick: () => chooseModel(other.id) }, `Use ${other.label} (${other.card.max_model_len.toLocaleString("en-US")})`)] : []),
  );
}

/** The request that counts it, or "" where there is nothing to count, or the model is not there to do so. */
function requestFor(conversation, draft, card) {
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

async function count(request) {
  try {
    const { count: numTokens } = await sendJson("POST", "tokenize", JSON.parse(request));
    counted = { request, numTokens };
    showMeter();
  } catch {
    // the estimate stays
  }
}
