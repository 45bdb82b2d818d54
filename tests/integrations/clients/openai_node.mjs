// OpenAI's client for Node over chats and responses, whole and streamed. Arguments: the server, its key and the model.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const City = z.object({ name: z.enum(["Bern", "Oslo"]) });
const messages = [{ role: "user", content: "Say hello." }];
const parameters = {
  type: "object",
  properties: { city: { enum: ["Bern", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};

{
  const asked = { model, messages, max_tokens: 12, temperature: 0 };
  const whole = await client.chat.completions.create(asked);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
    text += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(text, whole.choices[0].message.content);
  const wanted = { model, messages, max_tokens: 80, response_format: zodResponseFormat(City, "city") };
  const parsed = await client.chat.completions.parse(wanted);
  assert.ok(City.safeParse(parsed.choices[0].message.parsed).success);
  const growing = await client.chat.completions.stream(wanted).finalChatCompletion();
  assert.ok(City.safeParse(growing.choices[0].message.parsed).success);
  const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
  const runner = client.chat.completions.stream({ model, messages, tools, tool_choice: "required", max_tokens: 80 });
  assert.equal((await runner.finalMessage()).tool_calls[0].function.name, "get_weather");
  const choose = zodFunction({ name: "choose", parameters: City, function: ({ name }) => `${name} it is` });
  const acting = { model, messages, tools: [choose], tool_choice: "required", max_tokens: 80 };
  for (const stream of [false, true]) {
    const turns = client.chat.completions.runTools({ ...acting, stream }, { maxChatCompletions: 1 });
    assert.match(await turns.finalFunctionToolCallResult(), /^(Bern|Oslo) it is$/);
  }
  console.log("chats");
}
{
  const asked = { model, input: "Say hello.", max_output_tokens: 12, temperature: 0 };
  const whole = await client.responses.create(asked);
  let text = "";
  for await (const event of client.responses.stream(asked))
    if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, whole.output_text);
  const parsed = await client.responses.parse({
    model, input: "A city.", max_output_tokens: 80, text: { format: zodTextFormat(City, "city") },
  });
  assert.ok(City.safeParse(parsed.output_parsed).success);
  const growing = client.responses.stream({
    model, input: "A city.", max_output_tokens: 80, text: { format: zodTextFormat(City, "city") },
  });
  assert.ok(City.safeParse((await growing.finalResponse()).output_parsed).success);
  const tools = [{ type: "function", name: "get_weather", parameters, strict: true }];
  const first = await client.responses.create({ model, input: "Weather?", tools, tool_choice: "required" });
  const call = first.output.find((item) => item.type === "function_call");
  const second = await client.responses.create({
    model, tools, tool_choice: "none", previous_response_id: first.id, max_output_tokens: 12,
    input: [{ type: "function_call_output", call_id: call.call_id, output: "12 degrees" }],
  });
  assert.ok(second.output_text);
  console.log("responses");
}
await assert.rejects(client.chat.completions.create({ model, messages, temperature: -1 }), { status: 400 });
console.log("errors");
