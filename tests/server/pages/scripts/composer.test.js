import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { element, told } from "./page_stub.js";

const { Composer } = await import("../assets/chat/composer/composer.js");

const LONG = "a line\n".repeat(100);

mock.timers.enable({ apis: ["setTimeout"] }); // of notices, which would hold the process

function paste({ text = "", files = [] }) {
  const event = Object.assign(new Event("paste", { cancelable: true }), { clipboardData: { files, getData: () => text } });
  element("input").dispatchEvent(event);
  return event;
}

test("what is pasted or dropped while a message is being sent is not lost with it, but told to wait", async () => {
  let end = null;
  const sent = [];
  const onSend = (message) => (sent.push(message), new Promise((resolve) => (end = resolve)));
  const composer = new Composer({ onSend, onEditLast() {}, onProblem() {}, onChange() {} });
  paste({ text: LONG });
  assert.deepEqual(composer.draft.attachments.map(({ name }) => name), ["pasted-1.txt"]);
  element("composer").dispatchEvent(new Event("submit"));
  assert.equal(sent.length, 1);
  for (const pasted of [{ text: LONG }, { files: [new File(["x"], "x.txt")] }]) {
    told.length = 0;
    assert.equal(paste(pasted).defaultPrevented, true);
    assert.equal(composer.draft.attachments.length, 1);
    assert.match(told.join(" "), /The message is being sent\. Add this when it is gone, or press Esc to take the message back\./);
  }
  told.length = 0;
  await composer.attach([new File(["x"], "dropped.txt")]);
  assert.equal(composer.draft.attachments.length, 1);
  assert.match(told.join(" "), /The message is being sent\./);
  end(false);
  await new Promise(setImmediate);
  paste({ text: LONG });
  assert.deepEqual(composer.draft.attachments.map(({ name }) => name), ["pasted-1.txt", "pasted-2.txt"]);
});

test("a message that is being sent can be taken back", async () => {
  const signals = [];
  const onSend = (_, signal) => (signals.push(signal), new Promise((resolve) => signal.addEventListener("abort", () => resolve(false))));
  const composer = new Composer({ onSend, onEditLast() {}, onProblem() {}, onChange() {} });
  composer.fill("Was it this?");
  assert.equal(composer.takeBack(), false);
  element("composer").dispatchEvent(new Event("submit"));
  assert.equal(signals.length, 1);
  assert.equal(composer.takeBack(), true);
  await new Promise(setImmediate);
  assert.equal(signals[0].aborted, true);
  assert.equal(composer.draft.content, "Was it this?");
  assert.equal(composer.takeBack(), false);
});
