// Ollama's client for JavaScript: chat and generate, whole and streamed; tools, formats, embeddings.
// Arguments: the server, its key, the model and a model that makes embeddings.

import assert from "node:assert/strict";
import { Ollama } from "ollama";

const [host, apiKey, model, embedder] = process.argv.slice(2);
const client = new Ollama({ host, headers: { authorization: `Bearer ${apiKey}` } });
const messages = [{ role: "user", content: "Say hello." }];
const options = { temperature: 0, num_predict: 12 };

const whole = await client.chat({ model, messages, options });
let text = "";
for await (const part of await client.chat({ model, messages, options, stream: true })) text += part.message.content;
assert.equal(text, whole.message.content);
console.log("chat");

const generated = await client.generate({ model, prompt: "Say hello.", options });
text = "";
for await (const part of await client.generate({ model, prompt: "Say hello.", options, stream: true }))
  text += part.response;
assert.equal(text, generated.response);
console.log("generate");

const properties = { city: { enum: ["Bern", "Oslo"] } };
const schema = { type: "object", properties, required: ["city"], additionalProperties: false };
const answer = await client.chat({ model, messages, format: schema, options: { num_predict: 40 } });
assert.ok(["Bern", "Oslo"].includes(JSON.parse(answer.message.content).city));
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather", parameters: schema } }];
await client.chat({ model, messages, tools, options: { num_predict: 20 } });
console.log("format and tools");

const { embeddings } = await client.embed({ model: embedder, input: ["What floats?", "A boat floats."] });
assert.equal(embeddings.length, 2);
console.log("embeddings");

await assert.rejects(client.chat({ model: "another", messages }), { status_code: 404 });
console.log("errors");
