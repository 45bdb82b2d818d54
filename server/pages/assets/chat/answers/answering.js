// Asks for answers, and draws and stores them while they arrive: several at a time, in one conversation or more.

import { deleteStream, leaveStream } from "../../shared/api.js";
import { byId } from "../../shared/dom.js";
import { fits } from "../composer/fit.js";
import { showMeter } from "../composer/meter.js";
import { askKey, showCode, showMessage, showProblems } from "../dialogs.js";
import { elementOf, show, showRunning, showSidebar } from "../drawing.js";
import { say } from "../notices.js";
import { cardOf, modelsOf } from "../models/chooser.js";
import { page, settings, sortConversations } from "../page.js";
import { showConversationAddress } from "../places.js";
import { continuationBody, requestBody } from "../request.js";
import { followEnd } from "../scrolling.js";
import { connect, model, offered, setState } from "../server_state.js";
import { problemsOf } from "../settings/settings.js";
import { openSettings } from "../settings/settings_panel.js";
import { saveAnswer, saveConversation, saveHead, saveMessages } from "../storage/saving.js";
import { REPLY_MS, tell } from "../storage/tabs.js";
import { addNode, path, removeNode, shownNodes, titleOf } from "../tree.js";
import { emptyAnswer, newRun, reopen, resumeAnswer, streamAnswer } from "./answer.js";
import { Stall } from "./stall.js";

const SAVE_EVERY_MS = 1000;
const DRAW_PAUSE = 3; // times the duration of drawing, so that scrolling and typing stay smooth
const ASK_AGAIN_MS = 120_000; // a page that comes back later asks for nothing by itself
const LEFT_FOR_S = 15; // time to open a closed tab again, before its answers stop and their place is free
const MAX_RUNS = 4; // a browser opens six connections to a server, and the page needs some for other requests

const runs = new Map(); // node id -> {conversation, node, abort}: what this tab receives

/** Add a question to the conversation, and ask for its answer. Returns whether it was taken: not after `signal`. */
export async function send({ content, attachments }, signal) {
  const { current } = page;
  const { leafId } = current;
  if (!canBeAsked(current, leafId)) return false;
  const isFitting = await fits(current, { content, attachments }, signal);
  if (!isFitting || page.current !== current || !canBeAsked(current, leafId)) return false;
  const node = addNode(current, current.leafId, { role: "user", content, attachments });
  if (answer(current, node.id, [node])) return true;
  removeNode(current, node.id); // the reason was shown
  show();
  return false;
}

/** Whether a question that was sent below `leafId` can be added there now; if not, the reason is shown. */
function canBeAsked(conversation, leafId) {
  if (isAnswering(conversation)) say("An answer is arriving. Stop it with Esc, or send this when it is complete.");
  else if (conversation.leafId !== leafId) say("The conversation has changed meanwhile. Look at its end, and send this again.");
  else return true;
  return false;
}

/**
 * Ask for an answer below `parentId`. `unsaved`: nodes above it that are not stored yet. `models`: the one that answers,
 * or two whose answers are shown side by side. Returns whether the request could be made; if not, the reason is shown.
 */
export function answer(conversation, parentId, unsaved = [], models = modelsOf(conversation)) {
  const bodies = bodiesOf(conversation, models, (each) => requestBody(conversation, settings, each, parentId));
  if (!bodies) return false;
  conversation.model ||= modelsOf(conversation)[0] || undefined; // empty before the models are known
  const added = models.map((each) => addNode(conversation, parentId, { ...emptyAnswer(each), ...newRun() }));
  if (added.length === 2) Object.assign(conversation, { pair: added.map(({ id }) => id), leafId: added[0].id });
  if (page.conversations.includes(conversation)) {
    saveMessages(conversation, [...unsaved, ...added]);
    saveHead(conversation, ["model", "pair"]);
  }
  else {
    page.conversations.push(conversation);
    saveConversation(conversation);
    if (conversation === page.current) showConversationAddress(conversation);
  }
  sortConversations();
  added.forEach((node, index) => receive(conversation, node, (signal, onChange) => streamAnswer(node, bodies[index], signal, onChange)));
  if (conversation === page.current) show();
  else showSidebar();
  return true;
}

/** Continue an answer that was stopped, cut or edited, or that failed, where it ends. */
export function continueAnswer(conversation, node) {
  const [body] = bodiesOf(conversation, [offered(node.model)], (each) => continuationBody(conversation, settings, each, node)) ?? [];
  if (!body) return;
  reopen(node, body);
  saveMessages(conversation, [node]);
  receive(conversation, node, (signal, onChange) => streamAnswer(node, body, signal, onChange));
  show({ isSamePlace: true });
}

/** Ask again for an answer that nothing has arrived of, in its place. */
function answerAgain(conversation, node) {
  const [body] = bodiesOf(conversation, [offered(node.model)], (each) => requestBody(conversation, settings, each, node.parentId)) ?? [];
  if (!body) return endWithoutStream(conversation, node);
  Object.assign(node, emptyAnswer(body.model ?? node.model), newRun());
  receive(conversation, node, (signal, onChange) => streamAnswer(node, body, signal, onChange));
}

/** Go on with an answer that was arriving when its page was left; where the server cannot, it has been stopped. */
export function resume(conversation, node) {
  if (runs.has(node.id)) return;
  const isNew = node.run && Date.now() - node.run.startMs < ASK_AGAIN_MS;
  if (node.run?.streamId) receive(conversation, node, (signal, onChange) => resumeAnswer(node, signal, onChange));
  else if (isNew && !node.content && !node.reasoning) answerAgain(conversation, node);
  else endWithoutStream(conversation, node);
}

/** Say of an answer that no tab receives that it was stopped. */
function endWithoutStream(conversation, node) {
  node.isRunning = false; // and not deleted: other tabs take over what is there
  node.finishReason = "stopped";
  saveAnswer(conversation, node);
  if (conversation === page.current) show({ isSamePlace: true });
  else showSidebar();
}

/** Whether a shown message of the conversation is arriving, here or in another tab. */
export const isAnswering = (conversation) => shownNodes(conversation).some((node) => node.isRunning);

/** Whether this tab receives the message. */
export const isReceived = (id) => runs.has(id);

export const receivedIds = () => [...runs.keys()];

/** Stop the shown answers of a conversation, those too whose tab does not say that it has: it may have crashed. */
export function stop(conversation) {
  const stopped = shownNodes(conversation).map((node) => ({ node, runId: node.run?.id }));
  stopNodes(stopped.map(({ node }) => node));
  setTimeout(() => {
    for (const { node, runId } of stopped) {
      if (!node.isRunning || node.run?.id !== runId || !isThere(conversation, node)) continue;
      if (runs.has(node.id)) stopNodes([node]); // this tab has taken the answer over in the meantime
      else {
        if (node.run?.streamId) deleteStream(node.run.streamId);
        endWithoutStream(conversation, node);
      }
    }
  }, REPLY_MS);
}

/** Stop those of `nodes` that are arriving; those that another tab receives, there. */
export function stopNodes(nodes) {
  for (const { id, isRunning } of nodes) {
    if (runs.has(id)) runs.get(id).abort.abort();
    else if (isRunning) tell("stop", id);
  }
}

/** Whether neither the message nor its conversation was deleted meanwhile. */
const isThere = (conversation, node) => page.conversations.includes(conversation) && conversation.nodes[node.id] === node;

/** What `make` returns for each of `models`; null if it cannot be sent, which is shown with what to do. */
function bodiesOf(conversation, models, make) {
  const problems = models.flatMap((each) => problemsOf(conversation, settings, cardOf(each)));
  if (problems.length > 0) {
    const isFirst = ({ name }, index) => problems.findIndex((each) => each.name === name) === index; // of two models
    showProblems(problems.filter(isFirst)).then((name) => name && openSettings(name));
    return null;
  }
  if (runs.size + models.length > MAX_RUNS) {
    showMessage("The request cannot be sent", `${MAX_RUNS} answers are arriving in this tab, which is as many as a browser can receive at a time. Stop one, or wait for its end.`);
    return null;
  }
  try {
    return models.map(make);
  } catch (error) {
    showMessage("The request cannot be sent", `It cannot be made from this conversation: ${error.message}`);
    return null;
  }
}

async function receive(conversation, node, read) {
  const abort = new AbortController();
  runs.set(node.id, { conversation, node, abort });
  byId("announce").textContent = ""; // of an earlier answer; and the same words are only read again if they were gone
  const stall = new Stall((reason) => setState(reason, { isBad: reason !== "" }));
  const draw = drawer(conversation, node);
  const save = saver(conversation, node);
  await read(abort.signal, () => {
    stall.heard();
    draw();
    save();
  });
  stall.end();
  runs.delete(node.id);
  if (isLeaving) return; // what comes to an end with the page is no end of the answer
  node.isRunning = false;
  if (!isThere(conversation, node)) return;
  finish(conversation, node);
  draw();
}

function finish(conversation, node) {
  conversation.updatedMs = Date.now();
  saveAnswer(conversation, node);
  saveHead(conversation, ["updatedMs"]);
  sortConversations();
  if (conversation !== page.current) page.unread.add(conversation.id);
  showRunning();
  showSidebar();
  const place = conversation === page.current ? "" : ` in “${titleOf(conversation)}”`;
  const end = node.finishReason === "stopped" ? "was stopped" : "is complete";
  byId("announce").textContent = node.error ? `Error${place}: ${node.error.message}` : `The answer${place} ${end}.`;
  if (node.error && !node.error.wantsKey) connect(askKey);
}

/** A function that draws the node soon, and no more often than drawing leaves time for other things. */
function drawer(conversation, node) {
  let isDrawn = true;
  let pauseMs = 0;
  const draw = () => {
    isDrawn = true;
    if (page.current !== conversation) return;
    const startMs = performance.now();
    elementOf(node)?.update();
    showMeter();
    followEnd();
    pauseMs = DRAW_PAUSE * (performance.now() - startMs);
  };
  return () => {
    if (isDrawn) setTimeout(() => requestAnimationFrame(draw), pauseMs);
    isDrawn = false;
  };
}

/** A function that stores the node soon, and at once when the server has told its stream. */
function saver(conversation, node) {
  let timer = null;
  let savedStreamId = null;
  const save = () => {
    timer = null;
    savedStreamId = node.run.streamId;
    if (node.isRunning && isThere(conversation, node) && !isLeaving) saveAnswer(conversation, node);
  };
  return () => {
    if (savedStreamId !== node.run.streamId) save();
    else timer ??= setTimeout(save, SAVE_EVERY_MS);
  };
}

let isLeaving = false;

/**
 * Leave the answers to other tabs, and to the page when it is opened again, where the server goes on with them: for its
 * grace time after a reload and while another of its pages is shown here, and shortly if the tab may be closed for good.
 */
export function watchLeaving() {
  let isFollowed = false; // by a page of the same server; not every browser tells
  addEventListener("pageswap", ({ activation }) => (isFollowed = Boolean(activation)));
  addEventListener("pagehide", () => {
    isLeaving = true;
    tell("left", receivedIds());
    if (isFollowed) return;
    for (const { node } of runs.values()) if (node.run.streamId) leaveStream(node.run.streamId, LEFT_FOR_S);
  });
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // its streams have ended
}

/** Show the request for the last answer as code; before the first message, for what is in the field. */
export function showRequest() {
  const { current } = page;
  const draft = { parentId: null, role: "user", content: byId("input").value || "Hello!" };
  const base = current.rootIds.length > 0 ? current : { ...current, leafId: "draft", nodes: { draft } };
  const last = path(base).at(-1);
  showCodeFor(base, last.role === "assistant" ? last.parentId : last.id ?? "draft", model());
}

/** Show the request for this answer as code. */
export const showRequestOf = (node) => showCodeFor(page.current, node.parentId, offered(node.model));

function showCodeFor(conversation, untilId, modelName) {
  try {
    showCode(requestBody(conversation, settings, modelName, untilId));
  } catch (error) {
    showMessage("There is no request yet", error.message);
  }
}
