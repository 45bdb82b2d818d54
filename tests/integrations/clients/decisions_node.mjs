// Decisions through OpenAI's client for Node and the AI SDK. Arguments: the server, its key and the model.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_decide } from "ai";
import OpenAI from "openai";

const [url, apiKey, model] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const text = "I was charged twice. Please help today.";
const levels = ["can wait", "this week", "today"];

function checkShares(shares, expected) {
  assert.deepEqual(Object.keys(shares), expected);
  const sum = Object.values(shares).reduce((total, share) => total + share, 0);
  assert.ok(Math.abs(sum - 1) < 1e-6, `${sum}`);
}

{
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const questions = [
    { type: "predicate", name: "complaint", instructions: "The writer complains." },
    { type: "choice", name: "team", choices: [{ value: "billing", description: "payments" }, { value: "delivery" }] },
    { type: "score", name: "urgency", instructions: "How urgent?", levels: levels.map((label) => ({ label })) },
  ];
  const content = [{ type: "input_text", text, prompt_cache_breakpoint: { mode: "explicit" } }];
  for (const input of [text, [{ role: "user", content }]]) {
    const { answers, usage } = await client.decisions.create({ model, input, questions, min_mass: 0 });
    assert.deepEqual(answers.map(({ type, name }) => [type, name]), questions.map(({ type, name }) => [type, name]));
    const [complaint, team, urgency] = answers;
    assert.ok(complaint.probability > 0 && complaint.probability < 1);
    const named = (shares, key) => Object.fromEntries(shares.map((each) => [each[key], each.probability]));
    checkShares(named(team.probabilities, "value"), ["billing", "delivery"]);
    checkShares(named(urgency.probabilities, "label"), levels);
    assert.ok(urgency.score >= 0 && urgency.score <= 2);
    assert.ok(usage.input_tokens > 0 && usage.output_tokens === 0);
  }
  const refused = await client.decisions.create({ model, input: text, questions, min_mass: 1 });
  assert.deepEqual(refused.answers.map(({ type }) => type), ["refusal", "refusal", "refusal"]);
  await assert.rejects(client.decisions.create({ model, input: "", questions }), OpenAI.BadRequestError);
  await assert.rejects(client.decisions.create({ model: "none", input: text, questions }), OpenAI.NotFoundError);
  console.log("openai");
}
{
  const { answers, usage, warnings } = await experimental_decide({
    model: createOpenAI({ baseURL, apiKey }).decisionModel(model),
    maxRetries: 0,
    state: text,
    questions: {
      complaint: { type: "boolean", instructions: "The writer complains." },
      team: { type: "choice", instructions: "Who helps?", criteria: { billing: "payments", delivery: null } },
      urgency: { type: "score", instructions: "How urgent?", criteria: levels },
    },
  });
  assert.deepEqual(warnings, []);
  assert.ok(usage.inputTokens > 0 && usage.outputTokens === 0);
  assert.deepEqual(Object.keys(answers), ["complaint", "team", "urgency"]);
  assert.ok(answers.complaint.probability > 0 && answers.complaint.probability < 1);
  checkShares(answers.team.probabilities, ["billing", "delivery"]);
  checkShares(answers.urgency.probabilities, ["0", "1", "2"]);
  console.log("ai");
}
