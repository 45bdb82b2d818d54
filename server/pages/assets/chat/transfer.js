// Conversations as files: out as JSON or Markdown, in from JSON.

import { newId, saveFile } from "../shared/dom.js";
import { orderByLists } from "./storage/records.js";
import { path, titleOf } from "./tree.js";

const FORMAT = "headrace.conversations.v1";
const ROLES = new Set(["user", "assistant", "tool"]);

export function exportAll(conversations) {
  const text = JSON.stringify({ format: FORMAT, conversations: conversations.map(exported) }, null, 1);
  saveFile(`headrace-conversations-${new Date().toISOString().slice(0, 10)}.json`, text, "application/json");
}

/** A conversation without what only this browser can use: which streams of the server its answers came from. */
function exported(conversation) {
  const nodes = Object.entries(conversation.nodes).map(([id, { run, progress, isReconnecting, ...node }]) => {
    const isParentThere = conversation.nodes[node.parentId] !== undefined;
    return [id, { ...node, parentId: isParentThere ? node.parentId : null }];
  });
  return { ...conversation, nodes: Object.fromEntries(nodes) };
}

/** Save the shown branch for people to read. */
export function exportMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.system) parts.push(`**System:** ${conversation.system}`);
  for (const node of path(conversation)) {
    parts.push(`## ${{ user: "You", assistant: "Answer", tool: "Tool result" }[node.role]}`);
    for (const call of node.toolCalls ?? []) parts.push(`\`\`\`json\n${JSON.stringify(call, null, 2)}\n\`\`\``);
    parts.push(node.content);
  }
  const name = titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "conversation";
  saveFile(`${name}.md`, parts.join("\n\n") + "\n", "text/markdown");
}

/** The conversations in an exported file, with ids of their own. Throws Error, in words, if it is another file. */
export function parseExport(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON. Choose one that was saved with “Export all”.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("The file holds no headrace conversations. Choose one that was saved with “Export all”.");
  }
  if (!file.conversations.every(isWhole)) throw new Error("A conversation in the file is damaged; nothing was imported.");
  file.conversations.forEach(endAnswers);
  file.conversations.forEach(orderByLists);
  return file.conversations.map(withNewIds);
}

/** The same conversation as another one: what is imported twice is there twice. */
function withNewIds(conversation) {
  const ids = new Map(Object.keys(conversation.nodes).map((id) => [id, newId()]));
  const idOf = (id) => ids.get(id) ?? null;
  const nodes = Object.values(conversation.nodes).map((node) => ({
    ...node, id: idOf(node.id), parentId: idOf(node.parentId), childIds: node.childIds.map(idOf),
  }));
  return {
    ...conversation, id: newId(), nodes: Object.fromEntries(nodes.map((node) => [node.id, node])),
    rootIds: conversation.rootIds.map(idOf), leafId: idOf(conversation.leafId), pair: conversation.pair?.map(idOf) ?? null,
  };
}

/** Take answers that were arriving when the file was saved for stopped: nothing arrives any more. */
function endAnswers(conversation) {
  for (const node of Object.values(conversation.nodes)) {
    if (!node.isRunning) continue;
    delete node.isRunning;
    node.finishReason = "stopped";
  }
}

const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isObjectOf = (isField) => (value) => isObject(value) && Object.values(value).every(isField);
const isListOf = (isItem) => (value) => Array.isArray(value) && value.every(isItem);
const orNothing = (isValue) => (value) => value === null || value === undefined || isValue(value);
const hasTexts = (...names) => (value) => isObject(value) && names.every((name) => isText(value[name]));

const isProbable = (value) => isObject(value) && isText(value.text) && orNothing(Number.isFinite)(value.probability);
const CONVERSATION = {
  title: isText, system: isText, schema: isText, tools: isText, createdMs: Number.isFinite, updatedMs: Number.isFinite,
  nodes: isObject, rootIds: isListOf(isText), leafId: orNothing(isText),
  model: orNothing(isText), rival: orNothing(isText), pair: orNothing(isListOf(isText)),
};
const NODE = {
  id: isText, parentId: orNothing(isText), childIds: isListOf(isText), role: (value) => ROLES.has(value), content: isText,
  attachments: orNothing(isListOf(hasTexts("name", "text"))), toolCallId: orNothing(isText), toolName: orNothing(isText),
};
const ANSWER = {
  ...NODE, reasoning: isText, toolCalls: isListOf(hasTexts("id", "name", "arguments")), finishReason: orNothing(isText),
  requestId: orNothing(isText), model: orNothing(isText), maxTokens: orNothing(Number.isFinite),
  tokens: orNothing(isListOf((token) => isProbable(token) && isListOf(isProbable)(token.others))),
  stats: orNothing(isObjectOf(orNothing(Number.isFinite))), error: orNothing(hasTexts("message")),
};

const fits = (value, fields) => isObject(value) && Object.entries(fields).every(([name, isRight]) => isRight(value[name]));

/** Whether the page can show and send it: each field is of its kind, and the nodes are a tree, each reached once. */
function isWhole(conversation) {
  if (!fits(conversation, CONVERSATION)) return false;
  const nodes = new Map(Object.entries(conversation.nodes));
  if (conversation.leafId && !nodes.has(conversation.leafId)) return false;
  const open = conversation.rootIds.map((id) => [null, id]);
  while (open.length > 0) {
    const [parentId, id] = open.pop();
    const node = nodes.get(id);
    if (!fits(node, node?.role === "assistant" ? ANSWER : NODE)) return false;
    if (node.id !== id || (node.parentId ?? null) !== parentId) return false;
    nodes.delete(id);
    for (const childId of node.childIds) open.push([id, childId]);
  }
  return nodes.size === 0;
}
