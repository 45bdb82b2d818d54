// Asks for answers, and draws them while they arrive.

import { byId } from "../../shared/dom.js";
import { emptyAnswer, streamAnswer } from "./answer.js";
import { askKey, showCode, showMessage } from "../dialogs.js";
import { elementOf, show, showRunning, showSidebar } from "../drawing.js";
import { keep, page, settings } from "../page.js";
import { requestBody } from "../request.js";
import { followEnd } from "../scrolling.js";
import { connect, model, setState } from "../server_state.js";
import { Stall } from "./stall.js";
import { addNode, path, removeNode } from "../tree.js";

const SAVE_EVERY_MS = 2000;
const DRAW_PAUSE = 3; // times the duration of drawing, so that scrolling and typing stay smooth

/** Add a question to the conversation, and ask for its answer. Returns whether the question was taken. */
export function send({ content, attachments }) {
  if (page.running) return false;
  const node = addNode(page.current, page.current.leafId, { role: "user", content, attachments });
  if (answer(node.id)) return true;
  removeNode(page.current, node.id); // the reason was shown
  show();
  return false;
}

/** Ask for an answer below `parentId`. Returns whether the request could be made; if not, the reason is shown. */
export function answer(parentId) {
  const { conversations, current } = page;
  let body;
  try {
    body = requestBody(current, settings, model(), parentId);
  } catch (error) {
    showMessage("The request cannot be sent", error.message);
    return false;
  }
  if (!conversations.includes(current)) conversations.unshift(current);
  else conversations.sort((a, b) => b.updatedMs - a.updatedMs);
  const node = addNode(current, parentId, { ...emptyAnswer(model()), isRunning: true });
  page.running = { node, conversation: current, abort: new AbortController() };
  show();
  run(page.running, body);
  return true;
}

export const stop = () => page.running?.abort.abort();

async function run({ node, conversation, abort }, body) {
  let isDrawn = true;
  let pauseMs = 0;
  let savedMs = performance.now();
  const draw = () => {
    isDrawn = true;
    if (page.current !== conversation) return;
    const startMs = performance.now();
    elementOf(node)?.update();
    followEnd();
    pauseMs = DRAW_PAUSE * (performance.now() - startMs);
  };
  const stall = new Stall((reason) => setState(reason, { isBad: reason !== "" }));
  await streamAnswer(node, body, abort.signal, () => {
    stall.heard();
    if (isDrawn) setTimeout(() => requestAnimationFrame(draw), pauseMs);
    isDrawn = false;
    if (performance.now() - savedMs > SAVE_EVERY_MS) {
      savedMs = performance.now();
      keep(conversation);
    }
  });
  stall.end();
  delete node.isRunning;
  page.running = null;
  conversation.updatedMs = Date.now();
  keep(conversation);
  draw();
  showRunning();
  showSidebar();
  byId("announce").textContent = node.error ? `Error: ${node.error.message}` : "The answer is complete.";
  if (node.error && !node.error.wantsKey) connect(askKey);
}

/** Show the request for the last answer as code; before the first message, for what is in the field. */
export function showRequest() {
  const { current } = page;
  const draft = { parentId: null, role: "user", content: byId("input").value || "Hello!" };
  const base = current.rootIds.length > 0 ? current : { ...current, leafId: "draft", nodes: { draft } };
  const last = path(base).at(-1);
  showCodeFor(base, last.role === "assistant" ? last.parentId : last.id ?? "draft");
}

/** Show the request for this answer as code. */
export const showRequestOf = (node) => showCodeFor(page.current, node.parentId);

function showCodeFor(conversation, untilId) {
  try {
    showCode(requestBody(conversation, settings, model(), untilId));
  } catch (error) {
    showMessage("There is no request yet", error.message);
  }
}
