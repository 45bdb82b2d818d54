// How much of a model's context a conversation takes, with what is being written. Tests run it without a browser.

import { path } from "../tree.js";

const CHARACTERS_PER_TOKEN = 3.8; // of prose and code in Latin letters; of Chinese, Japanese and Korean about one
const PER_MESSAGE = 6; // what a template puts around one
const LITTLE = 0.1; // of the context
const COUNT_FROM = 0.25; // of the room: below, an estimate is enough

/** Whether `numTokens`, as estimated, may be more than a context of `limit` has room for beside an answer of `maxTokens`. */
export const isNear = (numTokens, limit, maxTokens) => numTokens > COUNT_FROM * (limit - maxTokens);

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

/** Why a message is not sent, and what helps, in words. `hasOther`: whether another model has room. The rest is as for contextWords. */
export function overflowWords({ numTokens, limit, maxTokens, name, hasFiles, hasHistory, isBeside, hasOther }) {
  const number = (value) => value.toLocaleString("en-US");
  const left = limit - numTokens;
  const has = `${hasHistory ? "With the conversation before it, the" : "The"} message has ${number(numTokens)} tokens. ${name} takes ${number(limit)}, the answer among them`;
  const reason = left < 1 ? `${has}.` : `${has}, which leaves ${number(left)}; your maximum length of an answer is ${number(maxTokens)}.`;
  const remedies = [
    left >= 1 && "lower the maximum length",
    left < 1 ? "shorten it" : "shorten the message",
    hasFiles && "attach less",
    hasHistory && "ask it in a new chat",
    isBeside && `take ${name} away from beside the other model`,
    hasOther && "send it to a model with more room",
  ].filter(Boolean);
  const list = remedies.length > 1 ? `${remedies.slice(0, -1).join(", ")} or ${remedies.at(-1)}` : remedies[0];
  return `${reason} ${list.charAt(0).toUpperCase()}${list.slice(1)}. Nothing was sent, and what you have written stays in its field.`;
}
