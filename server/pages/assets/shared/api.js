// Requests to the server: the key, errors in words, and streams of server-sent events.

import { keep, kept } from "./kept.js";
import { events } from "./sse.js";

const KEY = "headrace.key";

export const savedKey = () => kept(KEY) ?? "";

/** Keep the key until the browser is closed, or with `remember` until it is replaced. */
export function saveKey(key, remember) {
  keep(KEY, key, { untilClosed: !remember });
}

/** Keep the key for this tab, until that is closed. What the browser remembers for other tabs stays. */
export function saveKeyOfTab(key) {
  keep(KEY, key, { untilClosed: true, isOfTab: true });
}

/** What the server, or the way to it, has against a request. `status` is 0 if there was no answer. */
class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfterS = null, requestId = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfterS = retryAfterS;
    this.requestId = requestId;
  }

  get wantsKey() {
    return this.status === 401;
  }

  /** Whether the connection failed, or a proxy found no server behind it. */
  get isLost() {
    return this.status === 0 || (this.status >= 502 && this.status <= 504);
  }

  /** Why a key is needed, if one is. */
  get keyReason() {
    if (!this.wantsKey) return this.message;
    return savedKey() ? "The server does not accept this key: it may be mistyped, expired or removed." : "This server asks for a key.";
  }
}

/** The answer's JSON. `path` is relative to the page, since a proxy may have put the server under a prefix. */
export async function getJson(path, { signal } = {}) {
  const response = await send(path, { signal });
  return response.json();
}

/** The contents of a file, as a Blob. */
export async function getBlob(path) {
  const response = await send(path, {});
  return response.blob();
}

/**
 * Begin a streamed answer with `body`, or without one read a resumable stream again: {streamId, chunks}. Each chunk is
 * {chunk, number}, parsed, with its number in a resumable stream. They end at [DONE], and throw ApiError for an error in
 * their midst or a cut.
 */
export async function openStream(path, { body, signal }) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await send(path, { ...(body ? post : {}), signal });
  return { streamId: response.headers.get("x-stream-id"), chunks: chunksOf(response) };
}

async function* chunksOf(response) {
  if (response.status === 204) return; // all of it was read before
  try {
    for await (const { data, id } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(sentence(chunk.error.message), { status: chunk.error.status ?? 500, code: chunk.error.code });
      yield { chunk, number: Number(id?.split(":")[1]) || 0 };
    }
  } catch (error) {
    throw asApiError(error);
  }
  throw new ApiError("The server closed the connection before the answer was complete.");
}

/** Send a request that changes something, with `body` as JSON if there is one; the answer's JSON. */
export async function sendJson(method, path, body, { signal } = {}) {
  const sent = body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await send(path, { method, ...sent, signal });
  return response.json();
}

/** Stop a resumable stream for all its readers, even if the page is left in this moment. */
export async function deleteStream(streamId) {
  await send(`v1/streams/${streamId}`, { method: "DELETE", keepalive: true }).catch(() => {}); // it may have ended
}

/** Stop a resumable stream when nobody has read it for `graceS` seconds, even if the page is left in this moment. */
export async function leaveStream(streamId, graceS) {
  await send(`v1/streams/${streamId}?grace=${graceS}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** Yield each server-sent event's JSON until `signal` aborts or the server ends the stream. */
export async function* getEvents(path, signal) {
  const response = await send(path, { signal });
  try {
    for await (const { data } of events(response.body)) yield JSON.parse(data);
  } catch (error) {
    throw asApiError(error);
  }
}

async function send(path, options) {
  const key = savedKey();
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw asApiError(error);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.message ? sentence(body.error.message) : `The server answered ${response.status} ${response.statusText}.`, {
    status: response.status,
    code: body?.error?.code,
    param: body?.error?.param,
    retryAfterS: Number(response.headers.get("retry-after")) || null,
    requestId: response.headers.get("x-request-id"),
  });
}

/** The server's messages are parts of sentences. */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function asApiError(error) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  return new ApiError("The server cannot be reached.");
}
