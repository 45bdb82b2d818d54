// Tools: the model asks for calls, this program makes them, and the model answers with their results.
//
// First with runTools, in which the client makes the calls; the model decides whether it needs any. Then streamed, with
// a loop of our own and tool_choice "required" in the first turn, so that even a model that is poor at choosing calls.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction } from "openai/helpers/zod";
import { z } from "zod";

const CELSIUS = /** @type {Record<string, number>} */ ({ Paris: 18, Oslo: 4, Cairo: 31 });
const Weather = z.object({ city: z.string().max(40), unit: z.enum(["celsius", "fahrenheit"]) });

/** @param {z.infer<typeof Weather>} where */
function getWeather({ city, unit }) {
  const degrees = CELSIUS[city];
  const result =
    degrees === undefined
      ? `no data for ${city}; there is some for ${Object.keys(CELSIUS).join(", ")}`
      : `${unit === "celsius" ? degrees : (degrees * 9) / 5 + 32} degrees ${unit}`;
  console.log(`  get_weather(${JSON.stringify({ city, unit })}) -> ${result}`);
  return result;
}

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const [{ id: model }] = (await client.models.list()).data;
const tool = zodFunction({
  name: "get_weather",
  description: "The temperature in a city.",
  parameters: Weather,
  function: getWeather,
});
const options = { model, temperature: 0, max_completion_tokens: 300 };

/** @type {OpenAI.ChatCompletionMessageParam} */
const question = { role: "user", content: "How warm is it in Paris, in degrees Celsius?" };

console.log("runTools:");
const runner = client.chat.completions.runTools(
  { ...options, messages: [question], tools: [tool] },
  { maxChatCompletions: 3 },
);
console.log("  answer:", await runner.finalContent());

console.log("streamed:");
/** @type {OpenAI.ChatCompletionMessageParam[]} */
const messages = [question];
const first = await ask("required");
assert(first.tool_calls?.length, "the model called no tool");
messages.push(first);
for (const call of first.tool_calls) {
  assert(call.type === "function");
  const result = getWeather(Weather.parse(JSON.parse(call.function.arguments)));
  messages.push({ role: "tool", tool_call_id: call.id, content: result });
}
const answer = await ask("none");
assert(answer.content && !answer.tool_calls?.length, "the model gave no answer after the tool's result");
console.log("  answer:", answer.content);

/**
 * The model's message. Its pieces are printed as they come.
 * @param {"required" | "none"} tool_choice
 */
async function ask(tool_choice) {
  const stream = client.chat.completions.stream({
    ...options,
    messages,
    tools: [tool],
    tool_choice,
    parallel_tool_calls: false,
  });
  for await (const chunk of stream) {
    const delta = chunk.choices[0]?.delta;
    for (const call of delta?.tool_calls ?? []) {
      console.log("  piece of a call:", call.function?.name ?? "", call.function?.arguments ?? "");
    }
    if (delta?.content) console.log("  text:", JSON.stringify(delta.content));
  }
  return (await stream.finalChatCompletion()).choices[0].message;
}
