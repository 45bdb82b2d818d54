// One answer while it arrives: the chunks of a stream, gathered in a node of the conversation.
//
// The server goes on with a resumable stream while nobody reads it. So an answer outlives a lost connection and a reload
// of the page: `node.run` says which stream it is, and how many of its events are in the node.

import { deleteStream, openStream } from "../../shared/api.js";
import { newId } from "../../shared/dom.js";
import { figuresOf } from "./figures.js";

const RECONNECT_MS = 1000;
const RECONNECT_FOR_MS = 120_000; // by default the server keeps a stream for half as long

let canResume = true; // until the server says that it keeps no streams

/** The fields of an assistant's node before anything has arrived. */
export const emptyAnswer = (model) => ({
  role: "assistant", model, content: "", reasoning: "", toolCalls: [], tokens: null, stats: null, finishReason: null,
  error: null,
});

/** What a node needs to be answered: a new run. `numBefore`: the tokens of the text that it continues. */
export function newRun(numBefore = 0) {
  return { isRunning: true, run: { id: newId(), streamId: null, numEvents: 0, startMs: Date.now(), numBefore } };
}

/** Make an answer ready to be continued by `body`: with the text that it has, less what a template would drop at its end. */
export function reopen(node, body) {
  Object.assign(node, newRun(node.stats?.numTokens ?? 0), { content: node.content.trimEnd(), error: null, finishReason: null, requestId: null });
  node.model = body.model ?? node.model;
  if (!body.logprobs) node.tokens = null;
}

/** Fill `node` with the answer to `body`, and call `onChange` for all that arrives. Never throws: node.error tells. */
export function streamAnswer(node, body, signal, onChange) {
  node.maxTokens = body.max_tokens ?? null;
  return gather(node, () => begin(node, body, signal, onChange), signal, onChange);
}

/** Go on with an answer whose stream the page has left. Never throws: node.error tells. */
export const resumeAnswer = (node, signal, onChange) => gather(node, () => reconnect(node, signal, onChange, 0), signal, onChange);

async function gather(node, open, signal, onChange) {
  const { run } = node;
  try {
    let { chunks } = await open();
    while (chunks) chunks = await read(node, chunks, signal, onChange);
  } catch (error) {
    if (error.name === "AbortError" || error.code === "stream_deleted") {
      node.finishReason = "stopped";
      if (run.streamId) deleteStream(run.streamId);
    } else {
      node.requestId ??= error.requestId;
      node.error = errorOf(error);
    }
  }
  node.progress = null;
  node.isReconnecting = false;
  onChange();
}

async function begin(node, body, signal, onChange) {
  const request = { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true, timings_per_token: true };
  try {
    const stream = await openStream("v1/chat/completions", { body: canResume ? { ...request, resumable: true } : request, signal });
    node.run.streamId = stream.streamId;
    onChange();
    return stream;
  } catch (error) {
    if (!canResume || error.param !== "resumable") throw error;
    canResume = false;
    return begin(node, body, signal, onChange);
  }
}

/** Read to the end, or until the connection is lost: then the chunks of the next one are returned. */
async function read(node, chunks, signal, onChange) {
  try {
    for await (const { chunk, number } of chunks) {
      apply(node, chunk);
      node.run.numEvents = number;
      onChange();
    }
    return null;
  } catch (error) {
    if (!error.isLost || !node.run.streamId) throw error;
    return (await reconnect(node, signal, onChange, RECONNECT_MS)).chunks;
  }
}

/** Ask for the rest of the stream until the server answers. */
async function reconnect(node, signal, onChange, waitMs) {
  const { streamId, numEvents } = node.run;
  const untilMs = Date.now() + RECONNECT_FOR_MS;
  for (;;) {
    if (waitMs > 0) {
      node.isReconnecting = true;
      onChange();
      await pause(waitMs, signal);
    }
    try {
      const stream = await openStream(`v1/streams/${streamId}?starting_after=${numEvents}`, { signal });
      node.isReconnecting = false;
      onChange();
      return stream;
    } catch (error) {
      if (!error.isLost || Date.now() > untilMs) throw error;
      waitMs = RECONNECT_MS;
    }
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function errorOf(error) {
  const isGone = error.code === "stream_not_found";
  return {
    message: isGone ? "The server no longer has the rest of this answer: it was restarted, or this page or its connection was away for too long." : error.message,
    code: error.code ?? null, wantsKey: Boolean(error.wantsKey), keyReason: error.keyReason, retryAfterS: error.retryAfterS ?? null,
  };
}

function apply(node, chunk) {
  const { run } = node;
  node.requestId ??= chunk.id;
  if (chunk.timings) node.stats = { ...node.stats, ...figuresOf(chunk.timings, run.numBefore) };
  if (chunk.prompt_progress) {
    node.progress = chunk.prompt_progress;
    node.stats = { ...node.stats, numPromptTotal: node.progress.total };
  }
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { delta } = choice;
  const text = delta.content ?? "";
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (text || thought || delta.tool_calls) node.progress = null;
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
