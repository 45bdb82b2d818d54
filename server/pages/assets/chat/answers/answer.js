// One answer while it arrives: the chunks of a stream, gathered in a node of the conversation.

import { postStream } from "../../shared/api.js";

/** The fields of an assistant's node before anything has arrived. */
export const emptyAnswer = (model) => ({
  role: "assistant", model, content: "", reasoning: "", toolCalls: [], tokens: null, stats: null, finishReason: null,
  error: null,
});

/** Fill `node` with the answer to `body`, and call `onChange` for all that arrives. Never throws: node.error tells. */
export async function streamAnswer(node, body, signal, onChange) {
  const startMs = performance.now();
  const clock = { startMs, firstMs: null, lastMs: null };
  try {
    const request = { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true };
    for await (const chunk of postStream("v1/chat/completions", request, signal)) {
      apply(node, chunk, clock);
      onChange();
    }
  } catch (error) {
    if (error.name === "AbortError") node.finishReason = "stopped";
    else {
      node.requestId ??= error.requestId;
      node.error = { message: error.message, wantsKey: Boolean(error.wantsKey), keyReason: error.keyReason, retryAfterS: error.retryAfterS ?? null };
    }
  }
  node.progress = null;
  node.stats = { ...node.stats, firstTokenMs: clock.firstMs && clock.firstMs - startMs, totalMs: performance.now() - startMs };
  if (clock.lastMs > clock.firstMs && node.stats.numTokens > 1) {
    node.stats.tokensPerSecond = ((node.stats.numTokens - 1) / (clock.lastMs - clock.firstMs)) * 1000;
  }
  onChange();
}

function apply(node, chunk, clock) {
  node.requestId ??= chunk.id;
  if (chunk.prompt_progress) node.progress = chunk.prompt_progress;
  if (chunk.usage) {
    node.stats = {
      ...node.stats,
      numPromptTokens: chunk.usage.prompt_tokens,
      numCachedTokens: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
      numTokens: chunk.usage.completion_tokens,
    };
  }
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { delta } = choice;
  const text = delta.content ?? "";
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (text || thought || delta.tool_calls) {
    clock.lastMs = performance.now();
    clock.firstMs ??= clock.lastMs;
    node.progress = null;
  }
  node.content += text;
  node.reasoning += thought;
  for (const piece of delta.tool_calls ?? []) applyCall(node.toolCalls, piece);
  if (choice.logprobs?.content) (node.tokens ??= []).push(...choice.logprobs.content.map(token));
  if (choice.finish_reason) node.finishReason = choice.finish_reason;
}

function applyCall(calls, piece) {
  const call = (calls[piece.index] ??= { id: "", name: "", arguments: "" });
  if (piece.id) call.id = piece.id;
  if (piece.function?.name) call.name += piece.function.name;
  if (piece.function?.arguments) call.arguments += piece.function.arguments;
}

/** What is kept of a token: its text, its probability, and the likeliest ones in its place. */
const token = ({ token: text, logprob, top_logprobs: top }) => ({
  text,
  probability: Math.exp(logprob),
  others: (top ?? []).map((other) => ({ text: other.token, probability: Math.exp(other.logprob) })),
});
