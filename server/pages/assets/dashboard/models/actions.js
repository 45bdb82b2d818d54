// The buttons of a row, which change with its state while a keyboard's focus may be on one.

/** Replace the buttons; focus stays in the row. */
export function showActions(place, buttons) {
  const hadFocus = place.contains(document.activeElement);
  place.replaceChildren(...buttons);
  if (hadFocus) (buttons[0] ?? place.parentElement).focus({ preventScroll: true });
}
