// Whether the page stays at the end while an answer arrives: until the user scrolls up.

import { byId } from "../shared/dom.js";

const NEAR_END_PX = 60;

let isFollowing = true;

/** Go to the end, and stay there. */
export function toEnd() {
  isFollowing = true;
  const scroll = byId("scroll");
  scroll.scrollTop = scroll.scrollHeight;
  byId("to-end").hidden = true;
}

/** Go to the end that has moved, if the page stays there. */
export function followEnd() {
  if (isFollowing) toEnd();
}

export function watchScrolling() {
  byId("scroll").addEventListener("scroll", () => {
    const { scrollTop, scrollHeight, clientHeight } = byId("scroll");
    isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    byId("to-end").hidden = isFollowing;
  });
  byId("to-end").addEventListener("click", toEnd);
}
