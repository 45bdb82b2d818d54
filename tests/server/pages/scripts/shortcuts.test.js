import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCmd, isCommand, isPlain, shortcuts } from "../assets/chat/shortcuts.js";

const event = (key, held = {}, tagName = "BODY") =>
  ({ key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...held, target: { tagName } });

test("Macs have a Cmd key", () => {
  assert.deepEqual(["macOS", "MacIntel", "iPad", "Windows", "Win32", "Linux x86_64", ""].map(hasCmd), [true, true, true, false, false, false, false]);
});

test("commands need Cmd on a Mac and Ctrl elsewhere, and nothing else", () => {
  const cmd = event("Z", { metaKey: true });
  const ctrl = event("z", { ctrlKey: true });
  assert.deepEqual([isCommand(cmd, "z", { onMac: true }), isCommand(ctrl, "z", { onMac: true })], [true, false]);
  assert.deepEqual([isCommand(cmd, "z", { onMac: false }), isCommand(ctrl, "z", { onMac: false })], [false, true]);
  assert.equal(isCommand(event("z", { ctrlKey: true, shiftKey: true }), "z", { onMac: false }), false);
  assert.equal(isCommand(event("O", { ctrlKey: true, shiftKey: true }), "o", { shift: true, onMac: false }), true);
  assert.equal(isCommand(event("z", { ctrlKey: true, altKey: true }), "z", { onMac: false }), false);
});

test("plain keys are typed outside of fields, with nothing held but Shift", () => {
  assert.equal(isPlain(event("?", { shiftKey: true }), "?"), true);
  assert.equal(isPlain(event("/", { metaKey: true }), "/"), false);
  assert.equal(isPlain(event("/", {}, "TEXTAREA"), "/"), false);
});

test("shortcuts are named as the keyboard has them", () => {
  assert.deepEqual(shortcuts(true).find(([, what]) => what === "New chat")[0], ["⌘", "⇧", "O"]);
  assert.deepEqual(shortcuts(false).find(([, what]) => what === "New chat")[0], ["Ctrl", "Shift", "O"]);
});
