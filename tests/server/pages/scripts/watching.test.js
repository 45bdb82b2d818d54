import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { drawLast, followSilence, pause } from "../assets/dashboard/watching.js";

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

test("a server that says nothing is told of, with the time since when", () => {
  mock.timers.enable({ apis: ["setInterval", "Date"], now: 1000 });
  const told = [];
  const wait = (s) => Array.from({ length: s }, () => mock.timers.tick(1000));
  const { came, stop } = followSilence((sinceMs, lastsMs) => told.push([sinceMs, lastsMs]));
  wait(4);
  came();
  wait(4);
  assert.deepEqual(told, []);
  wait(2);
  assert.deepEqual(told, [[5000, 5000], [5000, 6000]]);
  came();
  stop();
  wait(10);
  const next = followSilence((sinceMs, lastsMs) => told.push([sinceMs, lastsMs]));
  wait(5); // of another attempt, which has heard nothing either
  next.stop();
  assert.deepEqual(told.at(-1), [11_000, 5000]);
  mock.timers.reset();
});
