import assert from "node:assert/strict";
import { test } from "node:test";
import { drawLast, pause } from "../assets/dashboard/watching.js";

test("of what comes between two pictures of the screen, the last is drawn", () => {
  const frames = [];
  globalThis.requestAnimationFrame = (draw) => frames.push(draw);
  const drawn = [];
  const draw = drawLast((value) => drawn.push(value));
  for (const value of [1, 2, 3]) draw(value); // as in a hidden tab
  assert.equal(frames.length, 1);
  frames.pop()();
  draw(4);
  frames.pop()();
  assert.deepEqual([drawn, frames], [[3, 4], []]);
});

test("a pause lasts until the page is looked at", async () => {
  globalThis.document = Object.assign(new EventTarget(), { hidden: true });
  let isOver = false;
  const paused = pause(0).then(() => (isOver = true));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(isOver, false);
  document.hidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
  await paused;
});
