// A training's figures as lines, and its samples by prompt. No element is made here: tests run it without a browser.

/** points: [step, train loss, validation loss, train reward, validation reward]. Lines by chart: {loss, reward}. */
export function curves(points) {
  const line = (column, color, label, isDotted) => ({ color, label, isDotted, points: points.filter((point) => point[column] != null).map((point) => [point[0], point[column]]) });
  return {
    loss: [line(1, "decode", "training", false), line(2, "prefill", "validation", true)],
    reward: [line(3, "shared", "training", false), line(4, "prefill", "validation", true)],
  };
}

/** The answers to each prompt by epoch: [{number, prompt, answers: [{epoch, text}]}]. A restarted epoch counts once. */
export function samplesByPrompt(samples) {
  const found = new Map();
  for (const { epoch, number, text, prompt } of samples) {
    if (!found.has(number)) found.set(number, { number, prompt, byEpoch: new Map() });
    found.get(number).byEpoch.set(epoch, text);
  }
  return [...found.values()].sort((a, b) => a.number - b.number).map(({ number, prompt, byEpoch }) =>
    ({ number, prompt, answers: [...byEpoch].sort(([a], [b]) => a - b).map(([epoch, text]) => ({ epoch, text })) }));
}
