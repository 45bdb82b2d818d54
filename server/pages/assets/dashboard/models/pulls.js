// Fetching models into the server's cache: a form, and the fetches of this server with their bars.

import { sendJson } from "../../shared/api.js";
import { copyButton, h } from "../../shared/dom.js";
import { showActions } from "./actions.js";
import { amountOf, fitOf, isOpen, namesIn, statusOf } from "./words.js";

const RATE_MS = 4000; // over which the speed is measured

/** {element, update(report)}. `refresh` is called after a change. */
export function pullsView(refresh) {
  const list = h("div", { class: "pulls" });
  const choices = h("datalist", { id: "pull-names" });
  const input = h("input", {
    id: "pull-name", class: "grow", required: true, list: "pull-names", placeholder: "OWNER/REPO, OWNER/REPO:Q4_K_M, pypi:NAME or demo:NAME",
    autocomplete: "off", autocapitalize: "off", spellcheck: "false", "aria-label": "Model to fetch", "aria-describedby": "pull-allowed",
  });
  const fault = h("p", { class: "note error", role: "alert", hidden: true });
  const form = h("form", { class: "row pull-form" }, input, choices, h("button", { class: "primary" }, "Fetch"));
  const allowed = h("p", { id: "pull-allowed", class: "muted small" });
  const off = h("div", { hidden: true },
    h("p", { class: "muted" }, "Fetching from here is off. Start the server with ", h("code", {}, "--pull-allow PATTERN"), ", such as ", h("code", {}, "--pull-allow 'OWNER/*'"),
      ", to say what may be fetched, or fetch on its machine with ", h("code", {}, "headrace pull MODEL"), "."));
  const element = h("section", { class: "card" }, h("h2", {}, "Fetch a model"), off, form, allowed, fault, list);

  const act = async (work) => {
    fault.hidden = true;
    try {
      await work();
    } catch (error) {
      fault.textContent = error.message;
      fault.hidden = false;
    }
    refresh();
  };
  const start = (model) => act(() => sendJson("POST", "dashboard/pulls", { model }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await start(input.value.trim());
    if (fault.hidden) input.value = "";
  });
  return {
    element,
    update({ allowed: patterns, pulls }) {
      off.hidden = patterns.length > 0;
      form.hidden = allowed.hidden = patterns.length === 0;
      allowed.textContent = `May be fetched here: ${patterns.join(", ")}`;
      const names = namesIn(patterns);
      if (choices.children.length !== names.length) choices.replaceChildren(...names.map((value) => h("option", { value })));
      list.hidden = pulls.length === 0;
      showRows(list, lastOfEach(pulls), (pull, old) => pullRow(pull, old, start, act));
    },
  };
}

/** The last fetch of each model, newest first. */
const lastOfEach = (pulls) => pulls.filter(({ model }, index) => pulls.findIndex((other) => other.model === model) === index);

/** Unlike lists that change by themselves, this one may move under the pointer: it does so when its reader fetches a model. */
function showRows(list, pulls, make) {
  const old = new Map([...list.children].map((row) => [row.model, row]));
  const rows = pulls.map((pull) => Object.assign(make(pull, old.get(pull.model)), { model: pull.model }));
  if (rows.length === list.children.length && rows.every((row, index) => row === list.children[index])) return;
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  list.replaceChildren(...rows);
  focused?.focus({ preventScroll: true });
}

function pullRow(pull, old, start, act) {
  const row = old ?? newRow(pull.model);
  const { status, bar, amount, fit, serve, actions } = row.parts;
  const { text, mood } = statusOf(pull);
  setText(status, text);
  status.className = `job-status ${mood}`;
  bar.hidden = !isOpen(pull);
  if (pull.total) {
    bar.max = pull.total;
    bar.value = pull.done;
    bar.style.setProperty("--share", `${(100 * pull.done) / pull.total}%`);
  } else {
    bar.removeAttribute("value");
    bar.style.setProperty("--share", "0%");
  }
  setText(amount, amountOf(pull, rateOf(row, pull)));
  const fits = pull.error ? { text: pull.error, mood: pull.state === "failed" ? "bad" : "" } : fitOf(pull);
  fit.hidden = !fits;
  setText(fit, fits?.text ?? "");
  fit.className = `pull-fit ${fits?.mood ?? ""}`;
  if (row.shownState !== pull.state) {
    row.shownState = pull.state;
    serve.hidden = !pull.serve;
    if (pull.serve) serve.replaceChildren("This command serves it: ", h("code", {}, pull.serve), copyButton(pull.serve));
    showActions(actions, actionsOf(pull, start, act));
  }
  return row;
}

function newRow(model) {
  const parts = {
    status: h("span", { class: "job-status", role: "status" }),
    bar: h("progress", { "aria-label": `Fetching ${model}` }),
    amount: h("small", { class: "muted" }),
    fit: h("p", { class: "pull-fit" }),
    serve: h("p", { class: "pull-serve", hidden: true }),
    actions: h("span", { class: "pull-actions" }),
  };
  const row = h("div", { class: "pull", role: "group", tabindex: "-1", "aria-label": model },
    h("b", { class: "pull-name", title: model }, model), parts.status, h("span", { class: "progress" }, parts.bar, parts.amount), parts.actions, parts.fit, parts.serve);
  row.parts = parts;
  row.samples = [];
  return row;
}

function actionsOf(pull, start, act) {
  if (isOpen(pull)) return [h("button", { class: "small", onclick: () => act(() => sendJson("DELETE", `dashboard/pulls/${pull.id}`)) }, "Stop")];
  if (pull.state === "complete") return [];
  return [h("button", { class: "small", onclick: () => start(pull.model) }, pull.state === "stopped" ? "Go on" : "Try again")];
}

/** The bytes a second of the last seconds in this stage; null if that is not known yet. */
function rateOf(row, { stage, done, unit }) {
  const nowMs = Date.now();
  if (unit !== "B" || row.stage !== stage) row.samples = [];
  row.stage = stage;
  row.samples = [...row.samples.filter(({ atMs }) => atMs > nowMs - RATE_MS), { atMs: nowMs, done }];
  const first = row.samples[0];
  return nowMs - first.atMs > 1000 && done > first.done ? (1000 * (done - first.done)) / (nowMs - first.atMs) : null;
}

/** Set an element's text only if it changed: a screen reader reads every change. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
