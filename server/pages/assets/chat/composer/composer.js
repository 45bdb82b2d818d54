// The field where a message is written, and the files that go with it.

import { count } from "../../shared/count.js";
import { byId, h } from "../../shared/dom.js";
import { keep, kept } from "../../shared/kept.js";
import { say } from "../notices.js";
import { page } from "../page.js";
import { isLong, isOfFiles, readFile } from "./files.js";

const placeOf = (conversation) => `headrace.draft.${conversation.rootIds.length > 0 ? conversation.id : "new"}`;

const IS_SENDING = "The message is being sent. Add this when it is gone, or press Esc to take the message back.";

const withoutFailed = (files) => files.filter(({ hasFailed }) => !hasFailed);

/**
 * `onSend({content, attachments}, signal)` resolves to whether the message was taken; once `signal` is aborted, it is not
 * taken any more. `onChange()` is called when it is another one. `onProblem(text)` is told why a file cannot be attached.
 */
export class Composer {
  #files = [];
  #input = byId("input");
  #place = placeOf(page.current); // where what is written belongs
  #filesElsewhere = new Map(); // place -> files that were not sent
  #sending = null; // an AbortController while a message is being sent
  #pasted = null; // {file, closeNotice}: what was pasted last, and the notice that says so

  constructor({ onSend, onEditLast, onProblem, onChange }) {
    this.onSend = onSend;
    this.onProblem = onProblem;
    this.onChange = onChange;
    byId("composer").addEventListener("submit", (event) => (event.preventDefault(), this.#send()));
    this.#input.addEventListener("input", () => this.#changed());
    this.#input.addEventListener("keydown", (event) => {
      if (event.isComposing) return; // Enter chooses a character there
      if (event.key === "Enter" && !event.shiftKey) event.preventDefault(), this.#send();
      if (event.key === "ArrowUp" && this.#input.value === "") event.preventDefault(), onEditLast();
    });
    this.#input.addEventListener("paste", (event) => this.#paste(event));
    byId("attach").addEventListener("click", () => byId("attach-file").click());
    byId("attach-file").addEventListener("change", async (event) => {
      await this.attach(event.target.files);
      event.target.value = "";
    });
  }

  /** What is being written. */
  get draft() {
    return { content: this.#input.value, attachments: this.#files };
  }

  focus() {
    this.#input.focus();
  }

  /** Take back a message that is being sent. Returns whether there was one. */
  takeBack() {
    this.#sending?.abort();
    return this.#sending !== null;
  }

  fill(content, attachments = []) {
    this.#input.value = content;
    this.#files = withoutFailed(attachments); // also what failed while another conversation was shown
    this.#showFiles();
    this.#changed();
    this.focus();
  }

  /** Show what was written for the current conversation and not sent; of a page that was reloaded, its text. */
  open() {
    this.#filesElsewhere.set(this.#place, this.#files);
    this.#place = placeOf(page.current);
    this.fill(kept(this.#place) ?? "", this.#filesElsewhere.get(this.#place));
  }

  /** Take the texts of text files and PDFs; what has no text, or too much, is refused in words. */
  async attach(files) {
    if (this.#sending) return say(IS_SENDING);
    await Promise.all([...files].map((file) => this.#attach(file)));
    this.focus();
  }

  async #attach(file) {
    const attachment = { name: file.name, isReading: true, progress: "" };
    this.#files.push(attachment);
    this.#showFiles();
    try {
      const { text, note } = await readFile(file, (progress) => (attachment.progress = progress, this.#showFiles()));
      Object.assign(attachment, { text, isReading: false });
      if (note) say(note);
    } catch (error) {
      attachment.hasFailed = true;
      this.#files = withoutFailed(this.#files);
      this.onProblem(error.message);
    }
    this.#showFiles();
  }

  /** Attach a long text that is pasted, where it does not push the conversation out of sight. */
  #paste(event) {
    if (this.#sending) return event.preventDefault(), say(IS_SENDING);
    const text = event.clipboardData.getData("text/plain");
    if (isOfFiles(event.clipboardData.files, text)) return event.preventDefault(), this.attach(event.clipboardData.files);
    if (!isLong(text)) return;
    event.preventDefault();
    const number = this.#files.filter(({ name }) => name.startsWith("pasted")).length + 1;
    const file = { name: `pasted-${number}.txt`, text };
    const { selectionStart, selectionEnd } = this.#input;
    this.#files.push(file);
    this.#showFiles();
    const closeNotice = say(`The pasted text has ${count(text.length, "character")}, so it became a file.`, () => {
      this.#files = this.#files.filter((each) => each !== file);
      this.#input.setRangeText(text, selectionStart, selectionEnd, "end");
      this.#showFiles();
      this.#changed();
      this.focus();
    }, "Put it into the field");
    this.#pasted = { file, closeNotice };
  }

  async #send() {
    const content = this.#input.value.trim();
    if (this.#sending || (!content && this.#files.length === 0)) return;
    if (this.#files.some(({ isReading }) => isReading)) return say("A file is still being read. Send again when its name stands alone.");
    const abort = new AbortController();
    this.#setSending(abort);
    const sending = this.onSend({ content, attachments: this.#files.map(({ name, text }) => ({ name, text })) }, abort.signal);
    const isTaken = await sending.finally(() => this.#setSending(null));
    if (!isTaken) return;
    this.fill("");
    this.#place = placeOf(page.current); // a new chat has become a conversation
  }

  /** Keep the message as it is while it is found out whether it fits. */
  #setSending(abort) {
    this.#sending = abort;
    this.#input.readOnly = abort !== null;
    byId("attach").disabled = abort !== null;
    for (const button of byId("attachments").querySelectorAll("button")) button.disabled = abort !== null;
  }

  #changed() {
    keep(this.#place, this.#input.value, { untilClosed: true });
    this.onChange();
    this.#fit();
  }

  #showFiles() {
    this.onChange();
    if (this.#pasted && !this.#files.includes(this.#pasted.file)) this.#pasted.closeNotice(), this.#pasted = null;
    byId("attachments").replaceChildren(
      ...this.#files.map((file) =>
        h("li", { "aria-busy": String(Boolean(file.isReading)) }, file.isReading ? `${file.name}: reading${file.progress}…` : file.name,
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
