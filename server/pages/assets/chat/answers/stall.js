// An answer that pauses: the server is asked why, since the engine may have ended under it and be starting again.

const PAUSE_MS = 2000;

/** Calls `onReason` with what is wrong, in words, while nothing of an answer comes, and with "" when there is nothing. */
export class Stall {
  #timer = null;
  #hasReason = false;

  constructor(onReason) {
    this.onReason = onReason;
    this.#wait();
  }

  /** Something came. */
  heard() {
    this.end();
    this.#wait();
  }

  end() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#hasReason) this.onReason("");
    this.#hasReason = false;
  }

  #wait() {
    const timer = (this.#timer = setTimeout(async () => {
      const reason = await reasonOfServer();
      if (this.#timer !== timer) return; // the answer went on meanwhile
      this.#hasReason ||= reason !== "";
      if (this.#hasReason) this.onReason(reason);
      this.#wait();
    }, PAUSE_MS));
  }
}

async function reasonOfServer() {
  try {
    const response = await fetch("health");
    return response.ok ? "" : sentence((await response.json()).reason);
  } catch {
    return ""; // the answer's own stream tells it
  }
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}. The answer then continues.`;
