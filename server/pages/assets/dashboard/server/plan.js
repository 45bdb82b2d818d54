// A button that asks for the plan of a model: it takes seconds of a processor, so that nothing asks by itself.

import { getJson } from "../../shared/api.js";
import { h } from "../../shared/dom.js";
import { meanLengths, planPath, planWords } from "./plan_words.js";

/** An element with the button. current: returns the model's fit when the button is pressed. */
export function planPart(model, current) {
  const answer = h("p", { class: "muted small", role: "status" });
  const label = `Simulate one more user of ${model}`;
  const button = h("button", { type: "button", class: "small" }, label);
  let controller = null; // of the plan that is computed
  button.addEventListener("click", async () => {
    if (controller) return controller.abort();
    const fit = current();
    const lengths = fit && meanLengths(fit);
    if (!lengths) {
      answer.textContent = fit ? "The model answered nothing in the last hour, so there is no length of requests to plan with." : "The model is not ready.";
      return;
    }
    controller = new AbortController();
    button.textContent = "Stop";
    answer.textContent = `Simulating requests of ${lengths.input} and answers of ${lengths.output} tokens, the means of its last five minutes with answers, at the lowest priority: this takes longer while the processors are full…`;
    try {
      const plan = await getJson(planPath(fit, lengths), { signal: controller.signal });
      answer.textContent = `${planWords(plan, fit.running + fit.waiting)} Requests of ${plan.input} and answers of ${plan.output} tokens, as on average in its last five minutes with answers; modeled from steps measured at the start.`;
    } catch (error) {
      answer.textContent = controller.signal.aborted ? "" : error.message;
    }
    controller = null;
    button.textContent = label;
  });
  return h("div", {}, button, answer);
}
