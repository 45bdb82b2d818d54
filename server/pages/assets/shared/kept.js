// Small values that the browser keeps. Where it keeps nothing, or has no room, the page remembers them until it is left.

const memory = new Map();

/** The value of that name, or null. */
export function kept(name) {
  return memory.get(name) ?? read("sessionStorage", name) ?? read("localStorage", name);
}

/**
 * Keep a text: for ever, or with `untilClosed` until the browser is closed. "" forgets it. With `isOfTab`, what is kept
 * for ever under that name stays beside it, for other tabs.
 */
export function keep(name, value, { untilClosed = false, isOfTab = false } = {}) {
  memory.delete(name);
  try {
    sessionStorage.removeItem(name);
    if (!isOfTab) localStorage.removeItem(name);
    if (value) (untilClosed ? sessionStorage : localStorage).setItem(name, value);
  } catch {
    memory.set(name, value);
  }
}

function read(area, name) {
  try {
    return globalThis[area].getItem(name); // with site data blocked, looking at the area is an error
  } catch {
    return null;
  }
}
