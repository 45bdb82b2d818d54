// Decisions: a mail routed by probabilities, which are compared with thresholds instead of reading prose.
//
// openai 7, which needs Node 22, has client.decisions.create; older versions send the same body with client.post.

import assert from "node:assert/strict";
import OpenAI from "openai";

const MAIL = "My order 1138 was charged twice. Please refund one of the two today!";
const QUESTIONS = [
  { type: "predicate", name: "complaint", instructions: "The writer complains." },
  {
    type: "choice",
    name: "team",
    instructions: "Which team should read the mail?",
    choices: [
      { value: "billing", description: "charges, invoices and refunds" },
      { value: "delivery", description: "parcels on their way" },
    ],
  },
  {
    type: "score",
    name: "urgency",
    instructions: "How urgent is the mail?",
    levels: [{ label: "can wait" }, { label: "this week" }, { label: "today" }],
  },
];

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const model = (await client.models.list()).data[0].id;

const body = { model, input: MAIL, questions: QUESTIONS };
const decision = await (client.decisions?.create(body) ?? client.post("/decisions", { body }));
const [complaint, team, urgency] = decision.answers;
assert.deepEqual(decision.answers.map(({ name }) => name), ["complaint", "team", "urgency"]);
console.log(`${MAIL} (${decision.usage.input_tokens} tokens)`);

// A refusal means that the model would answer something else.
if (complaint.type === "predicate") console.log(`a complaint with a probability of ${complaint.probability.toFixed(2)}`);
if (team.type === "choice") {
  const shares = Object.fromEntries(team.probabilities.map(({ value, probability }) => [value, probability]));
  assert.ok(Math.abs(shares.billing + shares.delivery - 1) < 1e-6);
  console.log(shares[team.choice] > 0.6 ? `to ${team.choice}` : "a person reads it", shares);
}
if (urgency.type === "score") console.log(`urgency ${urgency.score.toFixed(1)} of 2`);
