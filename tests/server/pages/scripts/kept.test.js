import assert from "node:assert/strict";
import { test } from "node:test";
import { getEvents, saveKey, saveKeyOfTab, savedKey } from "../assets/shared/api.js";

class Storage extends Map {
  getItem = (name) => this.get(name) ?? null;
  setItem = (name, value) => void this.set(name, value);
  removeItem = (name) => void this.delete(name);
}

test("a tab's own key leaves the remembered one to other tabs", () => {
  Object.defineProperty(globalThis, "localStorage", { value: new Storage(), configurable: true });
  Object.defineProperty(globalThis, "sessionStorage", { value: new Storage(), configurable: true });
  saveKey("ann's", true);
  saveKeyOfTab("the operator's");
  assert.equal(savedKey(), "the operator's");
  sessionStorage.clear(); // the tab is closed
  assert.equal(savedKey(), "ann's");
  saveKey("for now", false); // which the user has chosen not to be remembered
  sessionStorage.clear();
  assert.equal(savedKey(), "");
});

test("events that break off are said to be lost, in words", async () => {
  const body = new ReadableStream({ start: (stream) => stream.error(new TypeError("network error")) });
  globalThis.fetch = async () => new Response(body);
  await assert.rejects(getEvents("dashboard/events").next(), { message: "The server cannot be reached.", isLost: true });
});
