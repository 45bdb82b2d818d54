// Stops a message that the context of a model has no room for before it is sent.

import { showOverflow } from "../dialogs.js";
import { cardOf, chooseModel, models, modelsOf } from "../models/chooser.js";
import { fittingModel, nameOf } from "../models/model_list.js";
import { settings } from "../page.js";
import { answerTokens, problemsOf } from "../settings/settings.js";
import { openSettings } from "../settings/settings_panel.js";
import { contextTokens, isNear, overflowWords } from "./context.js";
import { countingRequest, countTokens, knownCount } from "./counting.js";

const COUNT_FOR_MS = 10_000; // then the server is asked with the request itself

/**
 * Whether `draft`, {content, attachments}, fits below the shown end of `conversation` into the context of each model that
 * would answer. If it does not, that is shown with what helps; a model with more room that is chosen there makes it fit.
 * What the server cannot count now fits: it refuses what is too long. Nothing fits once `signal` is aborted.
 */
export async function fits(conversation, draft, signal = new AbortController().signal) {
  const [first, ...others] = modelsOf(conversation);
  for (const id of [first, ...others]) {
    const numTokens = await countNear(conversation, draft, cardOf(id), signal);
    if (signal.aborted) return false;
    const maxTokens = answerTokens(settings);
    const limit = cardOf(id)?.max_model_len;
    if (numTokens === null || numTokens + Math.max(maxTokens, 1) <= limit) continue;
    const other = id === first ? fittingModel(models(), numTokens + maxTokens) : null;
    const words = overflowWords({
      numTokens, limit, maxTokens, name: nameOf(id), hasFiles: draft.attachments.length > 0, hasHistory: conversation.leafId !== null,
      isBeside: id !== first, hasOther: other !== null,
    });
    const choice = await showOverflow(words, { other, isOfSetting: numTokens < limit });
    if (choice === "setting") openSettings("max_tokens");
    if (choice !== "model") return false;
    chooseModel(other.id);
    return fits({ ...conversation, model: other.id }, draft, signal);
  }
  return true;
}

/** The tokens of a conversation with `draft`; null if they are few, cannot be counted, or a setting is wrong, which is told elsewhere. */
async function countNear(conversation, draft, card, signal) {
  const isUnclear = card?.max_model_len && problemsOf(conversation, settings, card).length === 0 &&
    isNear(contextTokens(conversation, draft), card.max_model_len, answerTokens(settings));
  const request = isUnclear ? countingRequest(conversation, draft, card) : "";
  if (request === "") return null;
  return knownCount(request) ?? countTokens(request, { signal: AbortSignal.any([signal, AbortSignal.timeout(COUNT_FOR_MS)]) });
}
