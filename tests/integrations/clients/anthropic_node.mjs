// Anthropic's client for Node: messages, whole and streamed, and tools. Arguments: the server, its key and the model.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const input_schema = { type: "object", properties: { city: { enum: ["Bern", "Oslo"] } }, required: ["city"] };
const tools = [{ name: "get_weather", input_schema }];

const whole = await client.messages.create({ model, messages, max_tokens: 12, temperature: 0 });
const stream = client.messages.stream({ model, messages, max_tokens: 12, temperature: 0 });
let text = "";
stream.on("text", (delta) => (text += delta));
const streamed = await stream.finalMessage();
assert.equal(text, whole.content[0].text);
assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
console.log("messages");

const asked = { model, messages, tools, tool_choice: { type: "any" }, max_tokens: 80 };
const first = await client.messages.create(asked);
const used = first.content.find((block) => block.type === "tool_use");
const result = { type: "tool_result", tool_use_id: used.id, content: "12 degrees" };
const history = [...messages, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
const second = await client.messages.create({ ...asked, messages: history, tool_choice: { type: "none" } });
assert.ok(second.content[0].text);
assert.equal((await client.messages.stream(asked).finalMessage()).stop_reason, "tool_use");
console.log("tools");

await assert.rejects(client.messages.create({ model: "another", messages, max_tokens: 1 }), { status: 404 });
console.log("errors");
