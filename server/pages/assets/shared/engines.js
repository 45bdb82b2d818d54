// Which of the names at /v1/models have an engine of their own.

/** One name of each model, the first that this caller may use. Adapters run in their model's engine. */
export function engineNames(cards) {
  const byModel = new Map();
  for (const { id, parent, headrace } of cards) {
    if (parent == null && !byModel.has(headrace.name)) byModel.set(headrace.name, id);
  }
  return [...byModel.values()];
}
