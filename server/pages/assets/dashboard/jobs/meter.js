// A bar with the progress in words below it.

import { h } from "../../shared/dom.js";
import { progressOf } from "./words.js";

export const jobMeter = () => h("span", { class: "progress" }, h("progress", { "aria-label": "Progress" }), h("small", { class: "muted" }));

export function fillMeter(element, job) {
  const [bar, words] = element.children;
  const max = job.total || 1;
  bar.max = max;
  bar.value = Math.min(job.done, max);
  bar.style.setProperty("--share", `${(100 * Math.min(job.done, max)) / max}%`);
  bar.hidden = !job.total;
  words.textContent = progressOf(job);
}
