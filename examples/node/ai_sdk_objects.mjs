// Vercel's AI SDK: an object that a Zod schema describes, whole and while it is written.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, Output, streamObject, streamText } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1";
const apiKey = process.env.OPENAI_API_KEY ?? "none";
const provider = createOpenAICompatible({
  name: "headrace",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true, // without it, the schema stays at home and any JSON object will do
});
const models = await fetch(`${baseURL}/models`, { headers: { authorization: `Bearer ${apiKey}` } });
const model = provider((await models.json()).data[0].id);

const schema = z.object({
  title: z.string().max(60),
  difficulty: z.enum(["easy", "medium", "hard"]),
  minutes: z.number().int().min(1).max(240),
});
const request = { model, prompt: "Give me a recipe for pancakes, as JSON.", temperature: 0, maxOutputTokens: 500 };

console.log("generateObject:");
console.log(" ", (await generateObject({ ...request, schema })).object);

console.log("streamObject:");
const objects = streamObject({ ...request, schema });
for await (const partial of objects.partialObjectStream) console.log("  so far:", partial);
console.log(" ", await objects.object, (await objects.usage).outputTokens, "tokens");

console.log("streamText with an output, which replaces streamObject in new programs:");
const text = streamText({ ...request, output: Output.object({ schema }) });
let last;
for await (last of text.partialOutputStream) console.log("  so far:", last);
assert(schema.safeParse(last).success, "the streamed answer does not match the schema");
