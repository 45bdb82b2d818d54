// The chat page: puts the parts together and owns what changes.

import { byId, h } from "../shared/dom.js";
import { applyTheme, switchTheme } from "../shared/theme.js";
import { emptyAnswer, streamAnswer } from "./answer.js";
import { Composer } from "./composer.js";
import { askKey, askText, isSure, showCode, showKeys, showMessage } from "./dialogs.js";
import { messageView } from "./message_view.js";
import { requestBody } from "./request.js";
import { connect, model, setState } from "./server_state.js";
import { loadSettings, saveSettings } from "./settings.js";
import { renderSettings } from "./settings_view.js";
import { renderSidebar } from "./sidebar.js";
import { Stall } from "./stall.js";
import * as store from "./store.js";
import { exportAll, exportMarkdown, parseExport } from "./transfer.js";
import { addNode, endAnswers, newConversation, path, removeNode, showVersion, titleOf } from "./tree.js";

const SUGGESTIONS = [
  ["Explain", "Explain to a beginner what a KV cache is and why it makes chat faster."],
  ["Write", "Write a short note that asks a neighbor to water the plants for a week."],
  ["Program", "Write a Python function that merges overlapping intervals, with a test."],
  ["List", "List five questions to ask before buying a used bicycle."],
];
const SAVE_EVERY_MS = 2000;
const DRAW_PAUSE = 3; // times what drawing took: the rest is for whoever scrolls and types

const settings = loadSettings();
let conversations = [];
let current = newConversation();
let running = null; // {node, conversation, abort}
let isFollowing = true; // whether the page stays at the end while an answer arrives

// --- showing ----------------------------------------------------------------------------------------------------------

function show() {
  const list = byId("messages");
  list.replaceChildren(...path(current).map((node) => messageView(current, node, actions)));
  if (list.children.length === 0) list.append(welcome());
  document.title = current.rootIds.length > 0 ? `${titleOf(current)} · headrace` : "headrace";
  showSidebar();
  showModes();
  showRunning();
  toEnd();
}

function showSidebar() {
  renderSidebar(conversations, current.id, { open: openConversation, rename, remove: removeConversation });
}

function welcome() {
  const cards = SUGGESTIONS.map(([label, text]) =>
    h("button", { class: "suggestion", onclick: () => composer.fill(text) }, h("strong", {}, label), h("span", {}, text)),
  );
  return h("div", { class: "welcome" },
    h("h1", {}, "What would you like to know?"),
    h("p", { class: "muted" }, "The model runs on this server. What you write stays between it and this browser."),
    h("div", { class: "suggestions" }, cards),
    h("p", { class: "muted small" }, "Press ", h("kbd", {}, "?"), " outside of the field for the keyboard."));
}

/** What makes the next answer differ from plain text, where it can be seen and switched off. */
function showModes() {
  const modes = [["schema", "JSON schema"], ["tools", "Tools"], ["system", "System prompt"]].filter(([name]) => current[name].trim());
  byId("modes").replaceChildren(
    ...modes.map(([name, label]) =>
      h("span", { class: "mode" },
        h("button", { type: "button", class: "quiet small", onclick: openSettings }, label),
        h("button", { type: "button", class: "icon tiny", "aria-label": `Remove: ${label}`, onclick: () => {
          current[name] = "";
          conversationChanged();
        } }, "✕")),
    ),
  );
}

function showRunning() {
  const isHere = running?.conversation === current;
  byId("send").hidden = isHere;
  byId("stop").hidden = !isHere;
}

function toEnd() {
  isFollowing = true;
  const scroll = byId("scroll");
  scroll.scrollTop = scroll.scrollHeight;
  byId("to-end").hidden = true;
}

byId("scroll").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = byId("scroll");
  isFollowing = scrollHeight - scrollTop - clientHeight < 60;
  byId("to-end").hidden = isFollowing;
});
byId("to-end").addEventListener("click", toEnd);

// --- answers ----------------------------------------------------------------------------------------------------------

function send({ content, attachments }) {
  if (running) return false;
  const node = addNode(current, current.leafId, { role: "user", content, attachments });
  if (answer(node.id)) return true;
  removeNode(current, node.id); // the reason was shown
  show();
  return false;
}

/** Ask for an answer below `parentId`. Returns whether the request could be made. */
function answer(parentId) {
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
  running = { node, conversation: current, abort: new AbortController() };
  show();
  run(running, body);
  return true;
}

async function run(task, body) {
  const { node, conversation, abort } = task;
  let isDrawn = true;
  let pauseMs = 0;
  let savedMs = performance.now();
  const draw = () => {
    isDrawn = true;
    if (current !== conversation) return;
    const startMs = performance.now();
    byId("messages").querySelector(`[data-id="${node.id}"]`)?.update();
    if (isFollowing) toEnd();
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
  running = null;
  conversation.updatedMs = Date.now();
  keep(conversation);
  draw();
  showRunning();
  showSidebar();
  byId("announce").textContent = node.error ? `Error: ${node.error.message}` : "The answer is complete.";
  if (node.error && !node.error.wantsKey) reconnect();
}

const stop = () => running?.abort.abort();

const actions = {
  showVersion(id) {
    if (running) return;
    showVersion(current, id);
    keep(current);
    show();
  },
  edit(node) {
    if (running) return;
    const element = byId("messages").querySelector(`[data-id="${node.id}"] .plain`);
    const field = h("textarea", { class: "edit", "aria-label": "Edit the message" });
    field.value = node.content;
    const done = () => {
      const sibling = addNode(current, node.parentId, { role: "user", content: field.value.trim(), attachments: node.attachments });
      if (!answer(sibling.id)) removeNode(current, sibling.id), show();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), done();
      if (event.key === "Escape") event.stopPropagation(), show();
    });
    element.replaceChildren(field, h("div", { class: "row end" }, h("button", { onclick: show }, "Cancel"), h("button", { class: "primary", onclick: done }, "Send")));
    field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
    field.focus();
  },
  regenerate(node) {
    if (!running) answer(node.parentId);
  },
  retry(node) {
    if (running) return;
    const { parentId } = node;
    removeNode(current, node.id);
    answer(parentId);
  },
  async enterKey(node) {
    if (await askKey(node.error.keyReason ?? "This server asks for a key.")) actions.retry(node), reconnect();
  },
  async remove(node) {
    if (running) return;
    removeNode(current, node.id);
    keep(current);
    show();
  },
  answerCalls(node, results) {
    if (running) return;
    let parentId = node.id;
    for (const { call, content } of results) {
      parentId = addNode(current, parentId, { role: "tool", content, toolCallId: call.id, toolName: call.name }).id;
    }
    answer(parentId);
  },
};

// --- conversations ----------------------------------------------------------------------------------------------------

function keep(conversation) {
  if (!conversations.includes(conversation)) return; // it was deleted while its answer arrived
  store.save(structuredClone(conversation)).catch(() => setState("This browser has no room to store the conversation.", { isBad: true }));
}

function openConversation(conversation) {
  current = conversation;
  closeSidebar();
  if (!byId("settings").hidden) openSettings();
  show();
  composer.focus();
}

const newChat = () => openConversation(newConversation());

async function rename(conversation) {
  const title = await askText("Name of the conversation", titleOf(conversation));
  if (title === null) return;
  conversation.title = title;
  keep(conversation);
  if (conversation === current) show();
  else showSidebar();
}

async function removeConversation(conversation) {
  if (!(await isSure(`Delete “${titleOf(conversation)}”?`, "Delete"))) return;
  if (running?.conversation === conversation) stop();
  conversations = conversations.filter((each) => each !== conversation);
  await store.remove(conversation.id);
  if (conversation === current) newChat();
  else showSidebar();
}

function conversationChanged() {
  keep(current);
  showModes();
  if (!byId("settings").hidden) openSettings();
}

// --- panels -----------------------------------------------------------------------------------------------------------

function openSettings() {
  byId("settings").hidden = false;
  renderSettings({
    conversation: current,
    settings,
    onConversation: () => (keep(current), showModes()),
    onSettings: ({ isReset = false } = {}) => {
      saveSettings(settings);
      if (isReset) openSettings();
    },
    onClose: closeSettings,
  });
}

function closeSettings() {
  byId("settings").hidden = true;
  byId("open-settings").focus();
}

const isPhone = () => matchMedia("(max-width: 760px)").matches;

function toggleSidebar() {
  if (isPhone()) {
    document.body.classList.toggle("sidebar-open");
    byId("scrim").hidden = !document.body.classList.contains("sidebar-open");
  } else document.body.classList.toggle("sidebar-closed");
}

function closeSidebar() {
  document.body.classList.remove("sidebar-open");
  byId("scrim").hidden = true;
}

function showRequest() {
  try {
    const base = current.rootIds.length > 0 ? current : { ...current, leafId: "draft", nodes: { draft: { parentId: null, role: "user", content: byId("input").value || "Hello!" } } };
    const last = path(base).at(-1);
    showCode(requestBody(base, settings, model(), last.role === "assistant" ? last.parentId : last.id ?? "draft"));
  } catch (error) {
    showMessage("There is no request yet", error.message);
  }
}

// --- start ------------------------------------------------------------------------------------------------------------

const composer = new Composer({
  onSend: send,
  onEditLast: () => {
    const last = path(current).findLast((node) => node.role === "user");
    if (last) actions.edit(last);
  },
  onProblem: (text) => showMessage("The file was not attached", text),
});

let isConnecting = false;

async function reconnect() {
  if (isConnecting) return;
  isConnecting = true;
  await connect(askKey);
  isConnecting = false;
}

byId("new-chat").addEventListener("click", newChat);
byId("stop").addEventListener("click", stop);
byId("theme").addEventListener("click", switchTheme);
byId("search").addEventListener("input", showSidebar);
byId("open-settings").addEventListener("click", () => (byId("settings").hidden ? openSettings() : closeSettings()));
byId("open-sidebar").addEventListener("click", toggleSidebar);
byId("close-sidebar").addEventListener("click", closeSidebar);
byId("scrim").addEventListener("click", closeSidebar);
byId("show-code").addEventListener("click", showRequest);
byId("export-all").addEventListener("click", () => exportAll(conversations));
byId("export-one").addEventListener("click", () => exportMarkdown(current));
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async (event) => {
  try {
    const imported = parseExport(await event.target.files[0].text());
    conversations = [...imported, ...conversations].sort((a, b) => b.updatedMs - a.updatedMs);
    for (const conversation of imported) keep(conversation);
    showSidebar();
  } catch (error) {
    showMessage("Nothing was imported", error.message);
  }
  event.target.value = "";
});

document.addEventListener("keydown", (event) => {
  if (byId("dialog").open) return;
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (running) stop();
    else if (!byId("settings").hidden) closeSettings();
    else closeSidebar();
  } else if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "o") event.preventDefault(), newChat();
  else if (event.ctrlKey && event.key === ",") event.preventDefault(), openSettings();
  else if (!isTyping && event.key === "/") event.preventDefault(), composer.focus();
  else if (!isTyping && event.key === "?") showKeys();
});

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  composer.attach(event.dataTransfer.files);
});

applyTheme();
show();
composer.focus();
reconnect();
if (!(await store.open())) setState("This browser stores nothing: conversations are lost when you close the page.");
conversations = await store.loadAll();
conversations.forEach(endAnswers); // that the page was closed upon
showSidebar();
