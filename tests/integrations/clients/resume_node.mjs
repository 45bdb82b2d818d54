// A stream that survives its connection, gone on with by fetch and by an EventSource, which loses its own connection too.
// Arguments: the server, its key and the model.

import assert from "node:assert/strict";
import { EventSource } from "eventsource";

const [url, apiKey, model] = process.argv.slice(2);
const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
const asked = { model, messages: [{ role: "user", content: "Say hello." }], max_tokens: 24, temperature: 0, ignore_eos: true };
const resumable = { method: "POST", headers, body: JSON.stringify({ ...asked, stream: true, resumable: true }) };

async function* events(response) {
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (fields.data) yield fields;
    }
  }
  assert.equal(rest, "");
}

const content = (data) => (data === "[DONE]" ? "" : (JSON.parse(data).choices[0]?.delta?.content ?? ""));

async function remaining(response) {
  assert.equal(response.status, 200);
  let text = "";
  let last;
  for await (const event of events(response)) {
    text += content(event.data);
    last = event.data;
  }
  assert.equal(last, "[DONE]");
  return text;
}

function cutOff(body, maxBytes) {
  const reader = body.getReader();
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await reader.read();
      if (done) return controller.close();
      controller.enqueue(value);
      if ((maxBytes -= value.length) > 0) return;
      await reader.cancel();
      controller.close();
    },
  });
}

const answer = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body: JSON.stringify(asked) });
const whole = (await answer.json()).choices[0].message.content;

const first = await fetch(`${url}/v1/chat/completions`, resumable);
const stream = `${url}/v1/streams/${first.headers.get("x-stream-id")}`;
let begun = "";
let id;
for await (const event of events(first)) {
  begun += content(event.data);
  ({ id } = event);
  if (begun) break; // which closes the connection
}
assert.ok(begun.length < whole.length);

const behind = { ...headers, "last-event-id": id };
assert.equal(begun + (await remaining(await fetch(stream, { headers: behind }))), whole);
console.log("Last-Event-ID");
const number = id.split(":").at(-1);
assert.equal(begun + (await remaining(await fetch(`${stream}?starting_after=${number}`, { headers }))), whole);
console.log("starting_after");
const repeated = await fetch(`${url}/v1/chat/completions`, { ...resumable, headers: behind });
assert.equal(begun + (await remaining(repeated)), whole);
console.log("the same request again");

const places = [];
const source = new EventSource(stream, {
  fetch: async (input, init) => {
    const response = await fetch(input, { ...init, headers: { ...init.headers, ...headers } });
    places.push(init.headers["Last-Event-ID"]);
    if (places.length > 1 || response.body === null) return response;
    return new Response(cutOff(response.body, 1), { status: response.status, headers: response.headers });
  },
});
let heard = "";
const { code } = await new Promise((resolve) => {
  source.onmessage = (event) => (heard += content(event.data));
  source.onerror = (event) => source.readyState === EventSource.CLOSED && resolve(event);
});
assert.equal(code, 204);
assert.equal(heard, whole);
assert.equal(places[0], undefined);
assert.ok(places.length >= 2 && places.slice(1).every(Boolean), places.join());
console.log("EventSource");
