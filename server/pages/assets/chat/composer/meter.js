// The line below the message field that tells how much of the model's context the conversation takes, before it is sent.

import { byId, h } from "../../shared/dom.js";
import { cardOf, chooseModel, modelOf, models } from "../models/chooser.js";
import { fittingModel, nameOf } from "../models/model_list.js";
import { page, settings } from "../page.js";
import { answerTokens } from "../settings/settings.js";
import { contextTokens, contextWords, isNear } from "./context.js";
import { countingRequest, countTokens, knownCount } from "./counting.js";

const COUNT_AFTER_MS = 600; // since the last key

let draftOf = () => ({ content: "", attachments: [] });
let timer = null;

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
  const request = isNear(estimate, card.max_model_len, answerTokens(settings)) ? countingRequest(current, draft, card) : "";
  const known = knownCount(request);
  if (request && known === null) timer = setTimeout(() => countTokens(request).then((numTokens) => numTokens !== null && showMeter()), COUNT_AFTER_MS);
  draw(meter, card, known ?? estimate, known !== null);
}

function draw(meter, card, numTokens, isExact) {
  const { max_model_len: limit, id } = card;
  const maxTokens = answerTokens(settings);
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
