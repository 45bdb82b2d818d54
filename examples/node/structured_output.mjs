// An answer as an object that a Zod schema describes: whole, and while it is written.
//
// The server holds the model to the schema, so the answer is valid JSON of that shape whatever the model is.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const Recipe = z.object({
  title: z.string().max(60),
  difficulty: z.enum(["easy", "medium", "hard"]),
  ingredients: z
    .array(z.object({ name: z.string().max(40), grams: z.number().int().min(1).max(2000) }))
    .min(1)
    .max(4),
});

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const [{ id: model }] = (await client.models.list()).data;

const request = {
  model,
  messages: [{ role: /** @type {const} */ ("user"), content: "Give me a recipe for pancakes, as JSON." }],
  response_format: zodResponseFormat(Recipe, "recipe"),
  temperature: 0,
  max_completion_tokens: 1000,
};

console.log("whole:");
const completion = await client.chat.completions.parse(request);
const { parsed } = completion.choices[0].message;
assert(parsed, "the answer holds no recipe");
console.log(" ", JSON.stringify(parsed));

console.log("streamed:");
const stream = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
let seen = "";
stream.on("content.delta", (event) => {
  const partial = JSON.stringify(event.parsed);
  if (partial && partial !== seen) console.log("  so far:", (seen = partial));
});
const streamed = await stream.finalChatCompletion();
assert(streamed.choices[0].message.parsed, "the streamed answer holds no recipe");
console.log("  tokens:", streamed.usage?.completion_tokens);
console.log(" ", JSON.stringify(streamed.choices[0].message.parsed));
