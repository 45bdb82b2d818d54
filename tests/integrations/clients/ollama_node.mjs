// Ollama's client for JavaScript: chat and generate, whole and streamed. Arguments: the server, its key and the model.

import assert from "node:assert/strict";
import { Ollama } from "ollama";

const [host, apiKey, model] = process.argv.slice(2);
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

await assert.rejects(client.chat({ model: "another", messages }), { status_code: 404 });
console.log("errors");
