// Retrieval: documents and a question as vectors, and the nearest document.
//
// Needs an embedding model. Of several models the first that computes embeddings is taken.

import assert from "node:assert/strict";
import OpenAI from "openai";

const DOCUMENTS = [
  "A boat floats because it displaces as much water as it weighs.",
  "Bread rises when yeast turns sugar into gas.",
  "A headrace leads water to a mill's wheel or to a turbine.",
];
const QUESTION = "How does water get to a mill?";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const models = (await client.models.list()).data;
const { id: model } = models.find(({ headrace }) => headrace?.capabilities?.includes("embedding") ?? true);

const { data, usage } = await client.embeddings.create({ model, input: [QUESTION, ...DOCUMENTS] });
const [question, ...documents] = data.map(({ embedding }) => unit(embedding));
const scores = documents.map((document) => document.reduce((sum, value, index) => sum + value * question[index], 0));
const best = scores.indexOf(Math.max(...scores));
console.log(`${QUESTION}\n  ${scores[best].toFixed(2)} ${DOCUMENTS[best]} (${usage.prompt_tokens} tokens)`);
assert.equal(best, 2);

/** The vector with length 1: the sum of products of two such is their cosine. */
function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}
