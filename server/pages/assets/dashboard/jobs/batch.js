// A batch's own part of its page: its counts, tokens, errors and files.

import { getBlob } from "../../shared/api.js";
import { count } from "../../shared/count.js";
import { h, saveFile } from "../../shared/dom.js";

export function batchView() {
  const [figures, errors, files] = Array.from({ length: 3 }, () => h("section", { class: "card" }));
  let shown = "";
  return {
    element: h("div", {}, figures, errors, files),
    update({ job, batch }) {
      const text = JSON.stringify([job.done, job.failed, job.total, batch]);
      if (text === shown) return;
      shown = text;
      figures.replaceChildren(h("h2", {}, "Lines and tokens"), facts(job, batch));
      const faults = faultsOf(job, batch);
      errors.hidden = faults.length === 0;
      errors.replaceChildren(...faults);
      const offered = [["answers", batch.output_file_id], ["errors", batch.error_file_id]].filter(([, id]) => id);
      files.hidden = offered.length === 0;
      files.replaceChildren(h("h2", {}, "Files"), h("div", { class: "row" }, offered.map(([name, id]) => saveButton(job.id, name, id))));
    },
  };
}

function facts({ total, done, failed }, { endpoint, input_tokens: input, cached_tokens: cached, output_tokens: output, expires_at: expiresAt }) {
  const number = (value) => value.toLocaleString("en-US");
  const rows = [
    ["Lines", number(total)], ["Answered", number(done - failed)], ["Failed", number(failed)], ["Each line asks", endpoint],
    ["Prompt tokens", `${number(input)}${cached ? `, ${number(cached)} of them from the cache` : ""}`], ["Written tokens", number(output)],
    ["Must end by", new Date(expiresAt * 1000).toLocaleString()],
  ];
  return h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function faultsOf({ failed }, { failures, input_faults: faults, num_input_faults: numFaults }) {
  if (numFaults) return [
    h("h2", {}, "Why it was refused"),
    faults.length === 0 ? h("p", { class: "muted" }, `Its file has ${count(numFaults, "error")}.`) : table(["Line", "Error"], faults.map(({ line, message }) => [line ?? "–", message])),
    faults.length && numFaults > faults.length ? h("p", { class: "muted small" }, `The first ${faults.length} of ${count(numFaults, "error")}.`) : "",
  ];
  if (!failures.length) return [];
  return [
    h("h2", {}, "Lines that failed"),
    table(["Line", "Status", "Error"], failures.map(({ custom_id: id, status, code, message }) => [id, status ?? "not run", message || code])),
    failed > failures.length ? h("p", { class: "muted small" }, `The first ${failures.length} of ${count(failed, "failed line")}.`) : "",
  ];
}

const table = (titles, rows) => h("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Errors" },
  h("table", { class: "moments" }, h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, String(cell))))))));

function saveButton(jobId, name, fileId) {
  const button = h("button", {}, `Save the ${name}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      saveFile(`${jobId}-${name}.jsonl`, await getBlob(`v1/files/${fileId}/content`), "application/jsonl");
      button.textContent = `Save the ${name}`;
    } catch (error) {
      button.textContent = error.message;
    }
    button.disabled = false;
  });
  return button;
}
