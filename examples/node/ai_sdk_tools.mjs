// Vercel's AI SDK: tools that it runs for the model, whole and streamed.
//
// prepareStep makes the model call the tool in the first step and answer in the second. Without it the model decides.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1";
const apiKey = process.env.OPENAI_API_KEY ?? "none";
const provider = createOpenAICompatible({ name: "headrace", baseURL, apiKey, includeUsage: true });
const models = await fetch(`${baseURL}/models`, { headers: { authorization: `Bearer ${apiKey}` } });
const model = provider((await models.json()).data[0].id);

let calls = 0;
const tools = {
  multiply: tool({
    description: "Multiply two integers.",
    inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
    execute: async ({ a, b }) => {
      calls += 1;
      console.log(`  multiply(${a}, ${b}) -> ${a * b}`);
      return a * b;
    },
  }),
};
const request = {
  model,
  tools,
  prompt: "What is 12 times 34? Use the tool.",
  temperature: 0,
  maxOutputTokens: 300,
  stopWhen: stepCountIs(2),
  /** @param {{ stepNumber: number }} step */
  prepareStep: ({ stepNumber }) => ({
    toolChoice: stepNumber === 0 ? /** @type {const} */ ("required") : /** @type {const} */ ("none"),
  }),
};

console.log("generateText:");
const whole = await generateText(request);
assert.equal(whole.steps.length, 2, "the model called no tool");
assert(whole.text, "the model gave no answer after the tool's result");
console.log("  answer:", whole.text);

console.log("streamText:");
const streamed = streamText(request);
for await (const part of streamed.fullStream) {
  if (part.type === "tool-input-delta") console.log("  piece of a call:", part.delta);
  if (part.type === "reasoning-delta") console.log("  thought:", JSON.stringify(part.text));
  if (part.type === "text-delta") console.log("  text:", JSON.stringify(part.text));
  if (part.type === "error") throw part.error;
}
assert(calls >= 2, "the model called no tool in the stream");
assert(await streamed.text, "the stream held no answer after the tool's result");
