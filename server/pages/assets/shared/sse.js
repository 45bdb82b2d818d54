// Server-sent events out of a stream of bytes, however the network has cut it.

/** Each event of `body`, a ReadableStream of bytes: {data, event, id}. Comments are left out. */
export async function* events(body) {
  let fields = {};
  for await (const line of lines(body)) {
    if (line === "") {
      if (fields.data !== undefined) yield fields;
      fields = {};
    } else if (!line.startsWith(":")) {
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${value}` : value;
    }
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // a line without its end is no line
      rest += value;
      const whole = rest.split(/\r\n|\n|\r(?!$)/); // a \r at the very end may be half of \r\n
      rest = whole.pop();
      yield* whole;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
