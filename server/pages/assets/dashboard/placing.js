// Lists that change under the reader's eyes, and keep their elements: a press of a mouse outlives a frame, and so does a
// keyboard's focus.

import { h } from "../shared/dom.js";

/** Show an element for each item, made by `make(item, old)`; `old` is the element that the item had before, if any. */
export function place(list, items, keyOf, make, emptyText) {
  const old = new Map([...list.children].map((element) => [element.itemKey, element]));
  const isHeld = old.size > 1 && matchMedia("(hover: hover)").matches && list.matches(":hover"); // nothing moves under a pointer
  const elements = items.filter((item) => !isHeld || old.has(keyOf(item))).map((item) => {
    const key = keyOf(item);
    const element = make(item, old.get(key));
    element.itemKey = key;
    return element;
  });
  if (isHeld) return;
  if (elements.length === 0) elements.push(list.querySelector(".empty") ?? h("p", { class: "empty" }, emptyText));
  if (elements.length !== list.children.length || elements.some((element, index) => element !== list.children[index])) {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    list.replaceChildren(...elements);
    focused?.focus({ preventScroll: true });
  }
}
