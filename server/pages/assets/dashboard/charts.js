// Charts on canvases: few, plain, and drawn anew with every frame.

/** A canvas's context at the screen's own resolution, cleared. Colors are the page's, and change with its theme. */
function prepare(canvas) {
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  return { context, width, height, paint: (name) => resolved(canvas, name) };
}

/** `light-dark()` is for style sheets alone; a canvas needs what it comes to. */
function resolved(canvas, name) {
  canvas.style.color = `var(--${name})`;
  return getComputedStyle(canvas).color;
}

/** valueAt(share): what the height of a share of the chart stands for. */
function axis({ context, width, height, paint }, valueAt) {
  context.fillStyle = paint("muted");
  context.strokeStyle = paint("line");
  context.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    const y = Math.round(height - 14 - share * (height - 26)) + 0.5;
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
    if (share > 0) context.fillText(short(valueAt(share)), 2, y - 3);
  }
}

/** Lines over the last `seconds`. points: [{atMs, values: {name: number}}]. */
export function drawRates(canvas, points, names, seconds) {
  const area = prepare(canvas);
  const { context, width, height, paint } = area;
  const top = nice(Math.max(1, ...points.flatMap((point) => names.map((name) => point.values[name]))));
  axis(area, (share) => top * share);
  const nowMs = points.at(-1)?.atMs ?? 0;
  const x = (point) => width - ((nowMs - point.atMs) / 1000 / seconds) * width;
  const y = (value) => height - 14 - (value / top) * (height - 26);
  for (const name of names) {
    context.strokeStyle = paint(name);
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    points.forEach((point, index) => context[index ? "lineTo" : "moveTo"](x(point), y(point.values[name])));
    context.stroke();
  }
  context.fillStyle = paint("muted");
  context.fillText(`${seconds} s ago`, 2, height - 2);
  context.fillText("now", width - 24, height - 2);
}

/** A bar for each step: decode tokens below, prompt tokens above them, on a scale of square roots. */
export function drawSteps(canvas, steps) {
  const area = prepare(canvas);
  const { context, width, height, paint } = area;
  const step = 7;
  const shown = steps.slice(-Math.floor(width / step));
  const most = topOfSteps(Math.max(1, ...shown.map(([, prefill, decode]) => prefill + decode)));
  axis(area, (share) => most * share ** 2);
  const size = (tokens) => Math.sqrt(tokens / most) * (height - 26);
  shown.forEach(([, prefill, decode], index) => {
    const x = width - (shown.length - index) * step;
    const whole = size(prefill + decode);
    const low = size(decode);
    context.fillStyle = paint("decode");
    context.fillRect(x, height - 14 - low, step - 2, low);
    context.fillStyle = paint("prefill");
    context.fillRect(x, height - 14 - whole, step - 2, whole - low);
  });
}

/** Squares, each of them a share of the cache's blocks. parts: [[name, count]]. */
export function drawBlocks(canvas, parts) {
  const { context, width, height, paint } = prepare(canvas);
  const total = parts.reduce((sum, [, count]) => sum + count, 0);
  if (total === 0) return;
  const side = 13;
  const columns = Math.max(1, Math.floor(width / side));
  const squares = columns * Math.floor(height / side);
  let drawn = 0;
  let counted = 0;
  for (const [name, count] of parts) {
    counted += count;
    const until = count > 0 ? Math.max(drawn + 1, Math.round((counted / total) * squares)) : drawn;
    context.fillStyle = paint(name === "live" ? "decode" : name);
    for (; drawn < Math.min(until, squares); drawn += 1) {
      context.fillRect((drawn % columns) * side, Math.floor(drawn / columns) * side, side - 2, side - 2);
    }
  }
}

export function short(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  return value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}

/** The next multiple of 4, so that the middle of the scale is a whole number. */
const topOfSteps = (most) => Math.ceil(most / 4) * 4;

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}
