// From a conversation to the request that continues it, and to the same request for a terminal or a program.

import { path } from "./tree.js";
import { problemsOf, requestFields } from "./settings/settings.js";

/**
 * Whether the answer can be continued where it ends: there is text to continue, and nothing that must be whole from its
 * beginning, as JSON for a schema and calls of tools.
 */
export function canContinue(conversation, node) {
  return node.role === "assistant" && !node.isRunning && node.content.trim() !== "" && node.toolCalls.length === 0 &&
    node.childIds.length === 0 && !conversation.schema.trim();
}

/**
 * The body that continues the answer `node`, which ends without blanks: templates drop them. Token probabilities are asked
 * for only if those of the text before are there: a view of a part of the tokens would hide the text of the others.
 */
export function continuationBody(conversation, settings, model, node) {
  const body = requestBody(conversation, { ...settings, logprobs: settings.logprobs && Boolean(node.tokens) }, model, node.id);
  const last = body.messages.at(-1);
  last.content = node.content.trimEnd();
  if (node.reasoning) last.reasoning_content = node.reasoning;
  return { ...body, add_generation_prompt: false, continue_final_message: true };
}

/**
 * The body of POST v1/chat/completions. Throws Error, in words, if a setting is wrong.
 * `untilId`: the last node that is sent; by default the conversation's leaf.
 */
export function requestBody(conversation, settings, model, untilId = conversation.leafId) {
  const problems = problemsOf(conversation, settings);
  if (problems.length > 0) throw new Error(problems.map(({ label, text }) => `“${label}” in the settings is wrong. ${text}`).join(" "));
  const body = { model: model || undefined, messages: messages(conversation, untilId), ...requestFields(settings) };
  if (conversation.tools.trim()) {
    body.tools = JSON.parse(conversation.tools).map((tool) => (tool.type ? tool : { type: "function", function: tool }));
  }
  if (conversation.schema.trim()) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(conversation.schema), strict: true } };
  }
  return body;
}

function messages(conversation, untilId) {
  const all = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  for (const node of path({ ...conversation, leafId: untilId })) {
    if (node.role === "user") all.push({ role: "user", content: withAttachments(node) });
    else if (node.role === "tool") all.push({ role: "tool", tool_call_id: node.toolCallId, content: node.content });
    else all.push(assistantMessage(node));
  }
  return all;
}

function assistantMessage(node) {
  const message = { role: "assistant", content: node.content };
  if (node.toolCalls?.length) {
    message.content ||= null;
    message.tool_calls = node.toolCalls.map((call) => ({
      id: call.id, type: "function", function: { name: call.name, arguments: call.arguments },
    }));
  }
  return message;
}

/** Files stand before the text, each in a fence that its content does not close. */
function withAttachments(node) {
  const parts = (node.attachments ?? []).map(({ name, text }) => {
    const fence = "`".repeat(Math.max(3, ...(text.match(/`{3,}/g) ?? []).map((run) => run.length + 1)));
    return `${name}:\n${fence}\n${text}\n${fence}`;
  });
  return [...parts, node.content].join("\n\n");
}

/** The request as people would write it, by the name of the tool: {curl, Python, JavaScript}. */
export function examples(body, baseUrl, hasKey) {
  const json = JSON.stringify(body, null, 2);
  const key = hasKey ? "YOUR_KEY" : "none";
  const auth = hasKey ? ` \\\n  -H 'Authorization: Bearer YOUR_KEY'` : "";
  return {
    curl:
      `curl -N ${baseUrl}v1/chat/completions${auth} \\\n  -H 'Content-Type: application/json' \\\n  -d '` +
      `${JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''")}'`,
    Python:
      `from openai import OpenAI\n\nclient = OpenAI(base_url="${baseUrl}v1", api_key="${key}")\n` +
      `stream = client.chat.completions.create(**${python(splitExtra(body))}, stream=True)\n` +
      `for chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)\n`,
    JavaScript:
      `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${baseUrl}v1", apiKey: "${key}" });\n` +
      `const stream = await client.chat.completions.create({ ...${json}, stream: true });\n` +
      `for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n`,
  };
}

const BEYOND_OPENAI = ["top_k", "min_p", "repetition_penalty"];

/** The Python client takes what OpenAI's API does not have as `extra_body`. */
function splitExtra(body) {
  const known = { ...body };
  const extra = {};
  for (const name of BEYOND_OPENAI) {
    if (name in known) {
      extra[name] = known[name];
      delete known[name];
    }
  }
  return Object.keys(extra).length > 0 ? { ...known, extra_body: extra } : known;
}

/** A JSON value as a Python literal. */
function python(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((item) => inner + python(item, inner))
    : Object.entries(value).map(([name, item]) => `${inner}${JSON.stringify(name)}: ${python(item, inner)}`);
  return items.length === 0 ? open + close : `${open}\n${items.join(",\n")},\n${indent}${close}`;
}
