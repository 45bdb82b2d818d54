// Vercel's AI SDK over chats, responses and Anthropic's messages, and embeddings.
// Arguments: the server, its key, the model and a model that makes embeddings.

import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const [url, apiKey, name, embedder] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const openai = createOpenAI({ baseURL, apiKey });
const ways = {
  chat: createOpenAICompatible({ name: "headrace", baseURL, apiKey, supportsStructuredOutputs: true })(name),
  responses: openai.responses(name),
  anthropic: createAnthropic({ baseURL, apiKey })(name),
};
const City = z.object({ name: z.enum(["Bern", "Oslo"]) });

for (const [way, model] of Object.entries(ways)) {
  const asked = { model, prompt: "Say hello.", maxOutputTokens: 12, temperature: 0, maxRetries: 0 };
  const whole = await generateText(asked);
  let text = "";
  for await (const piece of streamText(asked).textStream) text += piece;
  assert.equal(text, whole.text, way);

  let calls = 0;
  const tools = {
    get_weather: tool({
      description: "The weather in a city.",
      inputSchema: z.object({ city: z.enum(["Bern", "Oslo"]) }),
      execute: async ({ city }) => `${12 + calls++} degrees in ${city}`,
    }),
  };
  const acting = {
    ...asked,
    tools,
    maxOutputTokens: 80,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  };
  await generateText(acting);
  const streamed = streamText(acting);
  await streamed.consumeStream();
  assert.equal((await streamed.steps).length, 2, way);
  assert.equal(calls, 2, way);

  const wanted = { model, schema: City, prompt: "A city.", maxOutputTokens: 80, maxRetries: 0 };
  assert.ok(City.safeParse((await generateObject(wanted)).object).success, way);
  const growing = streamObject(wanted);
  for await (const part of growing.partialObjectStream) assert.equal(typeof part, "object");
  assert.ok(City.safeParse(await growing.object).success, way);
  console.log(way);
}

const { embeddings } = await embedMany({ model: openai.embedding(embedder), values: ["What floats?", "A boat floats."] });
assert.equal(embeddings.length, 2);
console.log("embeddings");
