// What the colors of a picture mean.

import { h } from "../shared/dom.js";

/** `entries`: [[name of the color, text]]. */
export const legend = (entries) => entries.map(([name, text]) => h("span", { class: "entry" }, h("i", { class: `key ${name}` }), text));
