// Stands in for a browser's page where what is drawn is not the subject. Import it before the page's scripts.

export const told = []; // the texts that elements were given

const elements = new Map(); // by id

/** What is given for all that a script asks of an element and a test does not set: it can be called, and is read as "". */
const anything = new Proxy(() => anything, {
  get: (_, name) => (name === Symbol.toPrimitive ? () => "" : name === Symbol.iterator ? [][Symbol.iterator] : name === "then" ? undefined : anything),
  set: () => true,
});

/** An element that has what is set on it, and hears and is told events as the browser's do. */
function stub() {
  const own = Object.assign(new EventTarget(), { value: "", append: (...children) => told.push(...children.filter((child) => typeof child === "string")) });
  return new Proxy(own, {
    get: (_, name) => (!(name in own) ? anything : typeof own[name] === "function" ? own[name].bind(own) : own[name]),
    set: (_, name, value) => ((own[name] = value), true),
  });
}

export function element(id) {
  if (!elements.has(id)) elements.set(id, stub());
  return elements.get(id);
}

globalThis.document = new Proxy({ getElementById: element, createElement: stub, nodeType: 9 }, { get: (own, name) => own[name] ?? anything });
globalThis.window = new Proxy({ document }, { get: (own, name) => own[name] ?? anything }); // for DOMPurify
globalThis.ResizeObserver = class {};
globalThis.location = { search: "" };
globalThis.innerHeight = 800;
Map.groupBy ??= () => new Map(); // which Node has from 21 on
