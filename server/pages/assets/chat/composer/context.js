// How much of a model's context a conversation takes, with what is being written. Tests run it without a browser.

import { path } from "../tree.js";

const CHARACTERS_PER_TOKEN = 3.8; // of prose and code in Latin letters; of Chinese, Japanese and Korean about one
const PER_MESSAGE = 6; // what a template puts around one
const LITTLE = 0.1; // of the context

/** About how many tokens a text has. */
export function estimateTokens(text) {
  const numWide = text.match(/[\u2e80-\uffff]/g)?.length ?? 0;
  return Math.ceil((text.length - numWide) / CHARACTERS_PER_TOKEN + numWide);
}

/**
 * About how many tokens the shown branch takes with `draft`, {content, attachments}: those of the last answer and all
 * before it are known from the engine, and the rest is estimated.
 */
export function contextTokens(conversation, draft = { content: "", attachments: [] }) {
  const nodes = path(conversation);
  const at = nodes.findLastIndex(({ role, stats }) => role === "assistant" && stats?.numPromptTokens);
  const known = at < 0 ? estimateTokens(conversation.system + conversation.tools) : tokensWith(nodes[at]);
  const isDraft = draft.content.trim() !== "" || draft.attachments.length > 0;
  const rest = [...nodes.slice(at + 1), ...(isDraft ? [draft] : [])].filter(({ isRunning }) => !isRunning);
  return rest.reduce((sum, message) => sum + PER_MESSAGE + estimateTokens(textOf(message)), known);
}

/** What the next request has of an answer and all before it: not the answer's thought, which is not sent again. */
function tokensWith({ content, reasoning = "", toolCalls = [], stats: { numPromptTokens, numTokens, numBefore = 0 } }) {
  const said = content.length + toolCalls.reduce((sum, call) => sum + call.name.length + call.arguments.length, 0);
  const share = reasoning ? said / (said + reasoning.length) : 1;
  return numPromptTokens - numBefore + Math.round((numTokens ?? 0) * share);
}

const textOf = ({ content, attachments }) => content + (attachments ?? []).map(({ text }) => text ?? "").join("\n");

/** What is said of `numTokens` in a context of `limit`: {text, warning, isTooMuch}. `maxTokens`: what an answer may take by the settings. */
export function contextWords({ numTokens, isExact, limit, maxTokens, name }) {
  const number = (value) => value.toLocaleString("en-US");
  const about = isExact ? "" : "about ";
  const text = `${about}${number(numTokens)} of ${number(limit)} tokens`;
  const left = limit - numTokens;
  if (left < 1) return { text, isTooMuch: true, warning: `This does not fit: ${about}${number(numTokens)} tokens, and ${name} takes ${number(limit)}, the answer among them.` };
  if (maxTokens > left) return { text, isTooMuch: true, warning: `${about}${number(left)} tokens are left for the answer, and your maximum length is ${number(maxTokens)}.`.replace(/^a/, "A") };
  return { text, isTooMuch: false, warning: left < LITTLE * limit ? `${number(left)} left for the answer` : "" };
}
