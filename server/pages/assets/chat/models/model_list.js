// The models that can be asked, from the cards of /v1/models: adapters under their base, checkpoints apart, names that fit
// a line. No element is made here: tests run it without a browser.

import { engineNames } from "../../shared/engines.js";
import { shortNames } from "../../shared/names.js";
import { canChat } from "../capabilities.js";

const MAX_NAME = 34; // characters that a phone's row has room for
const MAX_SPOKEN = 60;
const CHECKPOINT = /:ckpt-step-(\d+)$/;

/**
 * A group for each model under its first name: {name, members}. The first member is the model, those after it are its
 * adapters: {id, label, card, isCheckpoint}.
 */
export function modelGroups(cards) {
  const chatting = cards.filter(canChat);
  const firstNames = engineNames(chatting);
  const bases = chatting.filter((card) => card.parent == null && firstNames.includes(card.id));
  const names = shortNames(bases.map(({ id }) => id));
  return bases.map((base, index) => {
    const adapters = chatting.filter((card) => card.parent === base.headrace.name);
    return {
      name: shortened(names[index]),
      members: [
        { id: base.id, label: shortened(names[index]), card: base, isCheckpoint: false },
        ...adapters.map((card) => ({ id: card.id, label: adapterLabel(card.id), card, isCheckpoint: CHECKPOINT.test(card.id) })),
      ],
    };
  });
}

/** The name of an adapter below its base, whose name it need not repeat: "ft:BASE:headrace:support:ab12" is "support:ab12". */
function adapterLabel(id) {
  const job = id.match(/^ft:.+:headrace:(.*)$/);
  const step = id.match(CHECKPOINT);
  const name = (job ? job[1] : shortNames([id])[0]).replace(CHECKPOINT, "").replace(/^:/, "");
  return shortened(name) + (step ? `, step ${step[1]}` : "");
}

/** A name with its middle left out if it is long: what differs stands at either end. */
export function shortened(name, max = MAX_NAME) {
  if (name.length <= max) return name;
  const head = Math.ceil((max - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(head + 1 - max)}`;
}

/** A model as sentences name it, without the path before its name. */
export const nameOf = (id) => shortened(shortNames([id])[0], MAX_SPOKEN);

/** What is said of a model beside its name: how much it takes, and whether it must be loaded first. */
export function modelNote({ max_model_len: limit, headrace: { state } }) {
  const notes = [];
  if (limit) notes.push(`${size(limit)} tokens`);
  if (state !== "loaded") notes.push({ unloaded: "not loaded", failed: "failed", loading: "loading", unloading: "unloading" }[state]);
  return notes.join(", ");
}

function size(limit) {
  if (limit >= 1 << 20) return `${Number((limit / (1 << 20)).toFixed(1))}M`;
  return limit >= 1024 ? `${Math.round(limit / 1024)}k` : String(limit);
}

/** The model with the smallest context that holds `numTokens`, a loaded one before others; or null. */
export function fittingModel(cards, numTokens) {
  const members = modelGroups(cards).flatMap((group) => group.members).filter(({ card, isCheckpoint }) => !isCheckpoint && card.max_model_len > numTokens);
  const rank = ({ card }) => (card.headrace.state === "loaded" ? 0 : 1e12) + (card.parent ? 0.5 : 0) + card.max_model_len;
  return members.sort((a, b) => rank(a) - rank(b))[0] ?? null;
}
