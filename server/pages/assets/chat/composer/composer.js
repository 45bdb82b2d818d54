// The field where a message is written, and the files that go with it.

import { byId, h } from "../../shared/dom.js";

const MAX_FILE_BYTES = 1 << 20;

/** `onSend({content, attachments})` returns whether the message was taken. */
export class Composer {
  #files = [];
  #input = byId("input");

  constructor({ onSend, onEditLast, onProblem }) {
    this.onSend = onSend;
    this.onProblem = onProblem;
    byId("composer").addEventListener("submit", (event) => (event.preventDefault(), this.#send()));
    this.#input.addEventListener("input", () => this.#fit());
    this.#input.addEventListener("keydown", (event) => {
      if (event.isComposing) return; // Enter chooses a character there
      if (event.key === "Enter" && !event.shiftKey) event.preventDefault(), this.#send();
      if (event.key === "ArrowUp" && this.#input.value === "") event.preventDefault(), onEditLast();
    });
    byId("attach").addEventListener("click", () => byId("attach-file").click());
    byId("attach-file").addEventListener("change", async (event) => {
      await this.attach(event.target.files);
      event.target.value = "";
    });
  }

  focus() {
    this.#input.focus();
  }

  fill(content, attachments = []) {
    this.#input.value = content;
    this.#files = [...attachments];
    this.#showFiles();
    this.#fit();
    this.focus();
  }

  /** Take text files; what is no text, or too large, is refused in words. */
  async attach(files) {
    for (const file of files) {
      if (file.size > MAX_FILE_BYTES) {
        this.onProblem(`“${file.name}” has ${(file.size / 1e6).toFixed(1)} MB; the limit is 1 MB, which is more than most contexts hold.`);
        continue;
      }
      try {
        const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
        if (text.includes("\0")) throw new Error("binary");
        this.#files.push({ name: file.name, text });
      } catch {
        this.onProblem(`“${file.name}” is not a text file. The model reads text only.`);
      }
    }
    this.#showFiles();
    this.focus();
  }

  #send() {
    const content = this.#input.value.trim();
    if (!content && this.#files.length === 0) return;
    if (this.onSend({ content, attachments: this.#files })) this.fill("");
  }

  #showFiles() {
    byId("attachments").replaceChildren(
      ...this.#files.map((file) =>
        h("li", {}, file.name,
          h("button", { type: "button", class: "icon tiny", "aria-label": `Remove ${file.name}`, onclick: () => {
            this.#files = this.#files.filter((each) => each !== file);
            this.#showFiles();
          } }, "✕")),
      ),
    );
  }

  #fit() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${Math.min(this.#input.scrollHeight + 2, innerHeight * 0.4)}px`;
  }
}
