// What the page does only while it is looked at: a hidden tab asks the server for nothing and draws nothing.

/** Wait `ms` milliseconds, and then for as long as the page is hidden. */
export async function pause(ms) {
  await new Promise((resolve) => setTimeout(resolve, ms));
  await untilSeen();
}

/** Wait for as long as the page is hidden. */
export async function untilSeen() {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

const SILENT_MS = 5000; // some twenty frames
const CHECK_MS = 1000;

let cameMs = null; // when something came from the server

/**
 * Look for a server that says nothing while its connection stays open: call `onSilent(sinceMs, lastsMs)` every second while
 * it does, with the time of the last thing that came from it, and how long this has been waited for. {came, stop}: call
 * `came` for each thing that comes.
 */
export function followSilence(onSilent) {
  let beganMs = Date.now();
  const timer = setInterval(() => {
    const lastsMs = Date.now() - beganMs;
    if (lastsMs >= SILENT_MS) onSilent(cameMs ?? beganMs, lastsMs);
  }, CHECK_MS);
  return { came: () => (cameMs = beganMs = Date.now()), stop: () => clearInterval(timer) };
}

/** A function that draws, when the browser next paints, the last of the values that it was given until then. */
export function drawLast(draw) {
  let waiting = null; // [value]
  return (value) => {
    if (waiting === null) {
      requestAnimationFrame(() => {
        const [last] = waiting;
        waiting = null;
        draw(last);
      });
    }
    waiting = [value];
  };
}
