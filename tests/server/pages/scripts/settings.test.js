import assert from "node:assert/strict";
import { test } from "node:test";
import { deletePreset, loadPresets, presetInForce, presetOf, savePreset } from "../assets/chat/settings/presets.js";
import { FIELDS, hintOf, inForce, ownValue, parseValue, problemOf, problemsOf, replaceSettings, requestFields, switchOff } from "../assets/chat/settings/settings.js";

const NONE = { stop: "", logprobs: false, effort: "" };
const field = (name) => FIELDS.find((each) => each.name === name);
const card = { max_model_len: 8192, headrace: { default_sampling_params: { temperature: 0.7, top_k: 20 } } };

test("a wrong value is told with its limit, and a right one is not", () => {
  assert.equal(problemOf(field("temperature"), 101), "It is 101; it must be at least 0 and at most 100.");
  assert.equal(problemOf(field("top_p"), 0), "It is 0; it must be above 0 and at most 1.");
  assert.equal(problemOf(field("top_k"), 1.5), "It is 1.5; it must be a whole number.");
  assert.equal(problemOf(field("max_tokens"), 0), "It is 0; it must be at least 1 and at most 2,147,483,647.");
  assert.match(problemOf(field("max_tokens"), 9000, card), /^It is 9,000; it must be at least 1 and at most 8,191, so that/);
  assert.equal(problemOf(field("temperature"), "0,7"), "It has a comma; write a point.");
  assert.equal(problemOf(field("temperature"), "hot"), "It is not a number.");
  for (const [name, value] of [["temperature", 0], ["top_p", 1], ["min_p", undefined], ["seed", -5]]) assert.equal(problemOf(field(name), value, card), "");
});

test("what is typed is a number, nothing, or kept as it is", () => {
  assert.deepEqual(["1", " .5 ", "-2e-1", "", " ", "1x", "0x10", "0,7", "Infinity"].map(parseValue), [1, 0.5, -0.2, undefined, undefined, "1x", "0x10", "0,7", "Infinity"]);
});

test("a value that the server accepts and that is seldom meant gets a hint", () => {
  assert.equal(hintOf(field("temperature"), 99), "It is 99. Above 2, the text is mostly random words.");
  for (const [name, value] of [["temperature", 2], ["temperature", 101], ["temperature", "hot"], ["temperature", undefined], ["top_k", 1000]]) assert.equal(hintOf(field(name), value), "");
  assert.match(inForce({ ...NONE, temperature: 99 })[0].hint, /^It is 99\./);
});

test("all that is wrong is told at once", () => {
  const conversation = { system: "[", schema: '{"type": ', tools: '{"name": "f"}' };
  const problems = problemsOf(conversation, { ...NONE, top_p: 2, seed: "x", temperature: 99, stop: "a\n".repeat(65) }, card);
  assert.deepEqual(problems.map(({ name }) => name), ["schema", "tools", "stop", "top_p", "seed"]);
  assert.match(problems[0].text, /^It cannot be read as JSON: /);
  assert.match(problems[1].text, /^It is not a list\. /);
  assert.equal(problems[2].text, "It has 65 lines; there may be at most 64.");
  assert.deepEqual(problems[3], { name: "top_p", label: "Top p", text: "It is 2; it must be above 0 and at most 1." });
  const right = { system: "", schema: "{}", tools: "[]" };
  assert.deepEqual(problemsOf(right, { ...NONE, stop: `${"b".repeat(1024)}\n\nc` }), []);
  assert.match(problemsOf(right, { ...NONE, stop: `a\n${"b".repeat(1025)}` })[0].text, /^Its text 2 has 1,025 characters; it may have at most 1,024\.$/);
});

test("tools must be objects, and a schema an object or a boolean", () => {
  const textsOf = (fields) => problemsOf({ system: "", schema: "", tools: "", ...fields }, NONE).map(({ text }) => text);
  for (const tool of ["null", "1", '"f"', "[]"]) assert.deepEqual(textsOf({ tools: `[{"name": "f"}, ${tool}]` }), ["Its tool 2 is no object. Write [{…}], as in OpenAI's API."]);
  for (const schema of ["null", "1", '"x"', "[{}]"]) assert.deepEqual(textsOf({ schema }), ["It is no object. Write {…}, or nothing if the answer may be any text."]);
  for (const schema of ["true", "false", "{}", " "]) assert.deepEqual(textsOf({ schema, tools: '[{"name": "f"}]' }), []);
});

test("nothing that is set is left out of a request", () => {
  assert.deepEqual(requestFields({ ...NONE, temperature: 0, seed: 3, stop: "a\n\nb", logprobs: true, effort: "low" }), {
    temperature: 0, seed: 3, stop: ["a", "b"], logprobs: true, top_logprobs: 5, reasoning_effort: "low",
  });
});

test("all that is in force is told, and can be switched off one by one", () => {
  const settings = { ...NONE, temperature: 0.5, max_tokens: 9000, top_k: "x", stop: "END", effort: "low", logprobs: true };
  assert.deepEqual(inForce(settings, card).map(({ text, isWrong }) => [text, isWrong]), [
    ["Temperature 0.5", false], ["Top k x", true], ["Maximum length 9,000", true], ["Stop at “END”", false], ["Reasoning: low", false], ["Token probabilities", false],
  ]);
  for (const { name } of inForce(settings, card)) switchOff(settings, name);
  assert.deepEqual(settings, NONE);
  assert.deepEqual(inForce(settings, card), []);
});

test("an empty field shows the model's own value", () => {
  assert.equal(ownValue(field("temperature"), card), "0.7 (the model's own)");
  assert.equal(ownValue(field("max_tokens"), card), "up to 8,192, less the prompt");
  assert.match(ownValue(field("temperature"), { headrace: {} }), /once it is loaded/);
});

test("presets are kept by name, with the settings and the conversation's", () => {
  const settings = { ...NONE, temperature: 0.5, other: 1 };
  const conversation = { id: "c", system: "Be brief.", schema: "", tools: "" };
  savePreset("brief", presetOf(settings, conversation));
  savePreset("a", presetOf(NONE, { ...conversation, system: "" }));
  assert.deepEqual([...loadPresets().keys()], ["a", "brief"]);
  assert.equal(presetInForce(settings, conversation), "brief");
  assert.equal(presetInForce({ ...settings, temperature: 1 }, conversation), "");
  const used = { ...NONE, top_k: 3 };
  replaceSettings(used, loadPresets().get("brief").settings);
  assert.deepEqual(used, { ...NONE, temperature: 0.5 });
  deletePreset("brief");
  assert.deepEqual([...loadPresets().keys()], ["a"]);
});
