// Conversations as files: out as JSON or Markdown, in from JSON.

import { newId, saveFile } from "../shared/dom.js";
import { path, titleOf } from "./tree.js";

const FORMAT = "headrace.conversations.v1";
const ROLES = new Set(["user", "assistant", "tool"]);

export function exportAll(conversations) {
  const text = JSON.stringify({ format: FORMAT, conversations }, null, 1);
  saveFile(`headrace-conversations-${new Date().toISOString().slice(0, 10)}.json`, text, "application/json");
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
  file.conversations.forEach(check);
  return file.conversations.map((conversation) => ({ ...conversation, id: newId() }));
}

function check(conversation) {
  const nodes = conversation?.nodes;
  const isWhole =
    nodes && typeof nodes === "object" && Array.isArray(conversation.rootIds) &&
    conversation.rootIds.every((id) => nodes[id]) && (conversation.leafId === null || nodes[conversation.leafId]) &&
    Object.entries(nodes).every(
      ([id, node]) =>
        node.id === id && ROLES.has(node.role) && typeof node.content === "string" && Array.isArray(node.childIds) &&
        node.childIds.every((childId) => nodes[childId]?.parentId === id) &&
        (node.parentId === null ? conversation.rootIds.includes(id) : nodes[node.parentId]?.childIds.includes(id)),
    );
  if (!isWhole) throw new Error("A conversation in the file is damaged; nothing was imported.");
}
