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
