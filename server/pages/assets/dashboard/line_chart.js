// A chart of lines with marked axes, as elements: it follows the page's width, colors and type.

import { h } from "../shared/dom.js";
import { legend } from "./legend.js";
import { endsOf, marks } from "./scale.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const HEIGHT = 100;

/**
 * lines: [{color, label, points: [[x, y]]}], each color a name of the style sheet; `isDotted` draws its points alone.
 * unit: of y, in words. xMarks: [[x, text]]. range: the first and the last x. label: for who cannot see it.
 * least: what the scale must hold. events: x of what is marked by a line across.
 */
export function lineChart({ lines, unit, xMarks, range: [from, to], label, least = 0, events = [] }) {
  const [bottom, top] = endsOf([least, ...lines.flatMap(({ points }) => points.map(([, y]) => y))]);
  const x = (value) => (to > from ? ((value - from) / (to - from)) * WIDTH : WIDTH / 2);
  const y = (value) => HEIGHT - ((value - bottom) / (top - bottom)) * HEIGHT;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const { values, digits } = marks(bottom, top);
  for (const value of values) svg.append(draw("line", { class: "grid-line", x1: 0, x2: WIDTH, y1: y(value), y2: y(value) }));
  for (const event of events) svg.append(draw("line", { class: "event-line", x1: x(event), x2: x(event), y1: 0, y2: HEIGHT }));
  for (const { color, points, isDotted } of lines) {
    if (isDotted || points.length === 1) for (const point of points) svg.append(dot(color, x(point[0]), y(point[1])));
    if (points.length > 1) svg.append(draw("polyline", { class: `curve ${color}`, points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(2)}`).join(" ") }));
  }
  const text = (value) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return h("figure", { class: "chart" },
    h("p", { class: "chart-unit", "aria-hidden": "true" }, unit),
    h("div", { class: "chart-body" },
      h("div", { class: "chart-y", "aria-hidden": "true" }, values.map((value) => at("top", y(value) / HEIGHT, text(value)))),
      h("div", { class: "chart-area", role: "img", "aria-label": label }, svg)),
    h("div", { class: "chart-x", "aria-hidden": "true" }, xMarks.map(([value, words]) => at("left", x(value) / WIDTH, words))),
    lines.length > 1 ? h("figcaption", { class: "legend" }, legend(lines.map(({ color, label: name }) => [color, name]))) : null);
}

/** A text beside an axis. One at an end of the lower axis stays within the chart. */
function at(side, share, text) {
  const element = h("span", { class: share < 0.04 ? "first" : share > 0.96 ? "last" : null }, text);
  element.style[side] = `${100 * share}%`;
  return element;
}

/** A line of no length with round ends: a circle would be stretched with the picture. */
const dot = (color, x, y) => draw("line", { class: `dot ${color}`, x1: x, x2: x, y1: y, y2: y });

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
