// The keyboard's place on the page, kept when elements are replaced by newer ones.

const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";
const SCROLLED = "pre, .table-frame, .math.block";

const focusable = (element) => [...element.querySelectorAll(FOCUSABLE)];

/** Replace `old` by `element`, which is a newer state of it: the focus, sideways scrolling and open details stay. */
export function putInPlace(old, element) {
  const at = old.contains(document.activeElement) ? focusable(old).indexOf(document.activeElement) : -1;
  const scrolled = [...old.querySelectorAll(SCROLLED)].map(({ scrollLeft }) => scrollLeft);
  const opened = [...old.querySelectorAll("details")].map(({ open }) => open);
  old.replaceWith(element);
  element.querySelectorAll(SCROLLED).forEach((each, index) => scrolled[index] && (each.scrollLeft = scrolled[index]));
  element.querySelectorAll("details").forEach((each, index) => opened[index] && (each.open = true));
  if (at >= 0) focusable(element)[at]?.focus({ preventScroll: true });
}
