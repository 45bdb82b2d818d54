// A fine-tuning job's own part of its page: its curves, samples, checkpoints and events.

import { count } from "../../shared/count.js";
import { h } from "../../shared/dom.js";
import { putInPlace } from "../../shared/focus.js";
import { chatLink } from "../../shared/links.js";
import { lineChart } from "../line_chart.js";
import { marks, thinned } from "../scale.js";
import { curves, samplesByPrompt } from "./curves.js";

const MAX_POINTS = 300; // of a line
const MAX_NOTES = 200;

export function trainingView() {
  const points = [];
  const samples = [];
  const notes = [];
  const cards = Object.fromEntries(["result", "loss", "reward", "samples", "events"].map((name) => [name, card([])]));
  let shown = ""; // of the result
  const fill = (name, parts) => {
    const newer = card(parts.filter(Boolean));
    putInPlace(cards[name], newer);
    cards[name] = newer;
  };
  return {
    element: h("div", {}, ...Object.values(cards)),
    update({ job, training, curve, samples: newSamples, notes: newNotes }) {
      points.push(...curve);
      samples.push(...newSamples);
      notes.push(...newNotes);
      const result = JSON.stringify([job.has_ended, job.status, training]);
      if (result !== shown) fill("result", resultOf(job, training));
      shown = result;
      if (curve.length) {
        fill("loss", chart("Loss", "nats per token; less is better", curves(points).loss, job.total));
        fill("reward", chart("Reward", "mean reward; more is better", curves(points).reward, job.total));
      }
      if (newSamples.length) fill("samples", samplesOf(samples));
      if (newNotes.length) fill("events", eventsOf(notes));
    },
  };
}

/** A card with these parts, hidden if there are none. */
const card = (parts) => h("section", { class: "card", hidden: parts.length === 0 }, parts);

function resultOf({ has_ended: hasEnded, status }, { adapter, checkpoints, error, error_code: code, ...facts }) {
  const rows = [
    ["Epochs", facts.n_epochs], ["Examples a step", facts.batch_size], ["Learning rate", facts.learning_rate?.toPrecision(2)],
    ["Adapter rank", facts.lora_rank], ["Trained tokens", facts.trained_tokens?.toLocaleString("en-US")],
  ].filter(([, value]) => value != null);
  return [
    code ? h("p", { class: "note error" }, error ?? `It failed: ${code}.`) : null,
    adapter ? h("p", { class: "row" }, h("a", { class: "button", href: chatLink(adapter) }, "Chat with it"), h("code", { class: "model-name" }, adapter)) : null,
    hasEnded && status === "succeeded" && !adapter && checkpoints.length ? h("p", { class: "muted" }, "Its adapter was deleted.") : null,
    rows.length ? h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])) : null,
    checkpoints.length ? h("details", {}, h("summary", {}, count(checkpoints.length, "checkpoint")),
      h("ul", { class: "plain-list" }, checkpoints.map(({ name, step }) => h("li", {}, h("a", { href: chatLink(name) }, "Chat"), ` after step ${step}: `, h("code", { class: "model-name" }, name))))) : null,
  ];
}

function chart(title, unit, lines, total) {
  const shown = lines.filter(({ points }) => points.length);
  if (shown.length === 0) return [];
  const last = Math.max(total, ...shown.map(({ points }) => points.at(-1)[0]));
  const words = shown.map(({ label, points }) => `${label} ${points[0][1].toFixed(3)} at step ${points[0][0]}, ${points.at(-1)[1].toFixed(3)} at step ${points.at(-1)[0]}`);
  return [
    h("h2", {}, title),
    lineChart({
      lines: shown.map((line) => ({ ...line, points: thinned(line.points, MAX_POINTS) })), unit, range: [1, last],
      xMarks: marks(1, last, 5).values.filter(Number.isInteger).map((step) => [step, `step ${step.toLocaleString("en-US")}`]),
      label: `${title}: ${words.join("; ")}`,
    }),
    h("p", { class: "muted small" }, `Last: ${shown.map(({ label, points }) => `${label} ${points.at(-1)[1].toFixed(3)}`).join(", ")}.`),
  ];
}

function samplesOf(samples) {
  return [
    h("h2", {}, "Samples, by epoch"),
    ...samplesByPrompt(samples).map(({ number, prompt, answers }) => h("div", { class: "sample" },
      h("h3", {}, prompt ?? `Sample ${number + 1}`),
      h("dl", { class: "facts" }, answers.map(({ epoch, text }) => [h("dt", {}, `epoch ${epoch}`), h("dd", {}, text || h("i", { class: "muted" }, "no text"))])))),
  ];
}

function eventsOf(notes) {
  const shown = notes.slice(-MAX_NOTES).reverse();
  return [
    h("h2", {}, "Events"),
    h("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Events" },
      h("table", { class: "moments" }, h("tbody", {}, shown.map(({ at, level, message }) =>
        h("tr", { class: level }, h("td", {}, new Date(at * 1000).toLocaleTimeString()), h("td", {}, message)))))),
    notes.length > shown.length ? h("p", { class: "muted small" }, `${count(notes.length - shown.length, "older event")} left out.`) : null,
  ];
}
