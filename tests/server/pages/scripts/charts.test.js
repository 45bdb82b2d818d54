import assert from "node:assert/strict";
import { test } from "node:test";
import { curves, samplesByPrompt } from "../assets/dashboard/jobs/curves.js";
import { endsOf, marks, thinned } from "../assets/dashboard/scale.js";

test("marks are round numbers that can be told apart", () => {
  assert.deepEqual(marks(0, 1), { values: [0, 0.5, 1], digits: 1 });
  assert.deepEqual(marks(0, 400), { values: [0, 100, 200, 300, 400], digits: 0 });
  assert.deepEqual(marks(1, 20, 5).values, [5, 10, 15, 20]);
  assert.equal(marks(0, 0.08).digits, 2);
  assert.deepEqual(marks(3, 3), { values: [3], digits: 0 });
});

test("a scale ends at round numbers that hold 0 and all values", () => {
  assert.deepEqual([0, 1, 2.3, 0.07, 1234].map((value) => endsOf([value])[1]), [1, 1, 3, 0.08, 1500]);
  assert.deepEqual([endsOf([]), endsOf([1, 2.3])], [[0, 1], [0, 3]]);
  assert.deepEqual([endsOf([-0.3, 0.9]), endsOf([-7, -2])], [[-0.5, 1], [-8, 0]]); // rewards
  assert.deepEqual(marks(...endsOf([-0.3, 0.9])).values, [-0.5, 0, 0.5, 1]);
});

test("many points become the means of equal groups", () => {
  const points = [[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]];
  assert.deepEqual(thinned(points, 5), points);
  assert.deepEqual(thinned(points, 3), [[1.5, 15], [3.5, 35], [5, 50]]);
});

test("a step is on the lines of what was measured in it", () => {
  const { loss, reward } = curves([[1, 2, null, null, null], [2, 1, 1.5, null, null], [3, null, null, 0.25, 0.5]]);
  assert.deepEqual(loss.map(({ label, points }) => [label, points]), [["training", [[1, 2], [2, 1]]], ["validation", [[2, 1.5]]]]);
  assert.deepEqual(reward.map(({ points }) => points), [[[3, 0.25]], [[3, 0.5]]]);
});

test("samples are grouped by prompt, each epoch's last answer in order", () => {
  const samples = [
    { epoch: 2, number: 1, text: "b2", prompt: "b?" }, { epoch: 1, number: 1, text: "b1", prompt: "b?" },
    { epoch: 1, number: 0, text: "a1", prompt: null }, { epoch: 1, number: 0, text: "a1 again", prompt: null },
  ];
  assert.deepEqual(samplesByPrompt(samples), [
    { number: 0, prompt: null, answers: [{ epoch: 1, text: "a1 again" }] },
    { number: 1, prompt: "b?", answers: [{ epoch: 1, text: "b1" }, { epoch: 2, text: "b2" }] },
  ]);
});
