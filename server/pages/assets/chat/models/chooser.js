// The field at the page's head that chooses the model of a conversation, and which model that is.

import { byId, h } from "../../shared/dom.js";
import { keep, kept } from "../../shared/kept.js";
import { conversationOfId, page } from "../page.js";
import { refreshSettings, refreshSettingsAtRest, showModes } from "../settings/settings_panel.js";
import { saveHead } from "../storage/saving.js";
import { path } from "../tree.js";
import { askModel } from "../dialogs.js";
import { modelGroups, modelNote, nameOf } from "./model_list.js";

const MODEL_KEY = "headrace.model"; // of new chats: the one that was chosen last
const UNFOLD = "show checkpoints of ";

let asked = new URLSearchParams(location.search).get("model"); // by a link to this page, until another one is chosen
let cards = [];
const unfolded = new Set(); // names of models whose checkpoints are listed

/** Take the cards of /v1/models. The field is drawn again if they have changed, so that an open list stays open. */
export function setModels(given) {
  const hasChanged = JSON.stringify(given) !== JSON.stringify(cards);
  if (hasChanged) {
    cards = given;
    showChooser();
    showModes();
  }
  refreshSettingsAtRest(hasChanged);
}

export const models = () => cards;

export const cardOf = (id) => cards.find((card) => card.id === id);

/** The model that answers in a conversation: the chosen one, or that of its last answer, or that of new chats. */
export function modelOf(conversation) {
  const ids = modelGroups(cards).flatMap(({ members }) => members.map(({ id }) => id));
  const isOffered = (id) => ids.includes(id) || (cardOf(id) && cards.some((card) => card.headrace.name === cardOf(id).headrace.name && ids.includes(card.id)));
  return [wanted(conversation), asked, kept(MODEL_KEY)].find((id) => id && isOffered(id)) ?? ids[0] ?? "";
}

/** The models that answer the next question: two, if another one was put beside the first. */
export function modelsOf(conversation) {
  const { rival } = conversation;
  const first = modelOf(conversation);
  return rival && rival !== first && cardOf(rival) ? [first, rival] : [first];
}

/** Ask which model to put beside the conversation's, for the next questions. */
export async function chooseRival() {
  const { current } = page;
  const first = modelOf(current);
  const id = await askModel("Two models side by side", `Each question is answered by ${nameOf(first)} and by this one, until you remove it above the message field:`, modelGroups(cards), first);
  if (id) setRival(current, id);
}

export function setRival(conversation, id) {
  conversation.rival = id;
  if (conversationOfId(conversation.id)) saveHead(conversation, ["rival"]);
  showModes();
}

/** Whether there are models to choose from. */
export const hasChoice = () => modelGroups(cards).flatMap(({ members }) => members).length > 1;

const wanted = (conversation) => conversation.model ?? path(conversation).findLast(({ role }) => role === "assistant")?.model;

/** Choose a model for the shown conversation, and for new chats. */
export function chooseModel(id) {
  const { current } = page;
  current.model = id;
  asked = null;
  keep(MODEL_KEY, id);
  if (conversationOfId(current.id)) saveHead(current, ["model"]);
  showChooser();
  showModes();
  refreshSettings();
}

/** Show the models, the checkpoints of those whose list was unfolded, and which one answers. */
export function showChooser() {
  const select = byId("model");
  const chosen = modelOf(page.current);
  const groups = modelGroups(cards);
  select.replaceChildren(...groups.map((group) => (group.members.length === 1 ? option(group.members[0], chosen) : optionGroup(group, chosen))));
  if (chosen && select.value !== chosen) select.prepend(h("option", { value: chosen, selected: true }, nameOf(chosen))); // another name of one
  select.title = chosen;
  select.onchange = () => changed(select, chosen);
  byId("compare").hidden = !hasChoice();
  const missing = wanted(page.current);
  byId("model-note").textContent = cards.length > 0 && missing && missing !== chosen ? `${nameOf(missing)} is not served now` : "";
  byId("model-note").title = missing ?? "";
}

function optionGroup({ name, members }, chosen) {
  const shown = members.filter(({ id, isCheckpoint }) => !isCheckpoint || unfolded.has(name) || id === chosen);
  const numHidden = members.length - shown.length;
  const more = numHidden > 0 ? [h("option", { value: UNFOLD + name }, `Show ${numHidden} checkpoint${numHidden === 1 ? "" : "s"}…`)] : [];
  return h("optgroup", { label: name }, shown.map((member) => option(member, chosen)), more);
}

function option({ id, label, card }, chosen) {
  const note = modelNote(card);
  return h("option", { value: id, title: id, selected: id === chosen }, note ? `${label} · ${note}` : label);
}

function changed(select, before) {
  if (!select.value.startsWith(UNFOLD)) return chooseModel(select.value);
  unfolded.add(select.value.slice(UNFOLD.length));
  select.value = before;
  showChooser();
  try {
    select.showPicker();
  } catch {
    // the browser opens no list by itself: the checkpoints are there when it is opened
  }
}
