// A button that asks for the plan of a model: it takes seconds of a processor, so that nothing asks by itself.

import { getJson } from "../../shared/api.js";
import { h } from "../../shared/dom.js";
import { meanLengths, planPath, planWords } from "./plan_words.js";

/** An element with the button. current: returns the model's fit, and the last hour, when the button is pressed. */
export function planPart(model, current) {
  const answer = h("p", { class: "muted small", role: "status" });
  const button = h("button", { type: "button", class: "quiet small" }, `Simulate one more user of ${model}`);
  button.addEventListener("click", async () => {
    const { fit, hour } = current();
    const lengths = meanLengths(hour);
    if (!fit || !lengths) {
      answer.textContent = fit ? "Nothing was answered in the last hour, so there is no length of requests to plan with." : "The model is not ready.";
      return;
    }
    button.disabled = true;
    answer.textContent = `Simulating requests of ${lengths.input} and answers of ${lengths.output} tokens, the means of the last hour…`;
    try {
      const plan = await getJson(planPath(fit, lengths));
      answer.textContent = `${planWords(plan, fit.running + fit.waiting)} Requests of ${plan.input} and answers of ${plan.output} tokens, as in the last hour on average; modeled from steps measured at the start.`;
    } catch (error) {
      answer.textContent = error.message;
    }
    button.disabled = false;
  });
  return h("div", {}, button, answer);
}
