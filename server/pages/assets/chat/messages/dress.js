// What becomes of the parts of an answer beyond their HTML: colors, formulas, footnotes, and what a keyboard and a screen
// reader need.

import { copyButton, h } from "../../shared/dom.js";

const FIRST_LEVEL = 3; // of headings: the page has the first, and each message the second
const LAST_LEVEL = 6;
const MAX_COLORED = 100_000; // characters of code

/**
 * Complete the elements of a block. `clean`: HTML to harmless nodes. `headings`: the levels that are open before the block,
 * outermost first. Returns those that are open after it.
 */
export function dress(element, { clean, isUnfinished, headings }) {
  for (const link of element.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of element.querySelectorAll("table")) {
    const frame = h("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const code of element.querySelectorAll("pre > code")) dressCode(code, { clean, isUnfinished });
  for (const box of element.querySelectorAll("input")) box.setAttribute("aria-label", box.checked ? "Done" : "To do");
  for (const mark of element.querySelectorAll(".footnote-mark")) dressFootnoteMark(mark);
  const formulas = element.querySelectorAll(".math");
  if (formulas.length > 0 && !isUnfinished) showFormulas(formulas);
  return dressHeadings(element, headings);
}

/** Headings keep their look. What a screen reader hears leaves out no level, wherever the model begins. */
function dressHeadings(element, before) {
  let open = before;
  for (const heading of element.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    if (!heading.textContent.trim()) {
      heading.role = "presentation"; // its words are still to come
      continue;
    }
    const level = Number(heading.tagName[1]);
    open = [...open.filter((each) => each < level), level];
    heading.ariaLevel = Math.min(LAST_LEVEL, FIRST_LEVEL - 1 + open.length);
  }
  return open;
}

/** A footnote's mark in the text leads to the footnote, and the one beside the footnote back. */
function dressFootnoteMark(mark) {
  const label = mark.textContent;
  const isBack = mark.parentElement.matches(".footnote");
  const go = () => {
    const text = mark.closest(".text");
    const targets = [...text.querySelectorAll(isBack ? "sup.footnote-mark" : ".footnote > .footnote-mark")];
    targets.find(({ textContent }) => textContent.toLowerCase() === label.toLowerCase())?.querySelector("button").focus();
  };
  mark.replaceChildren(h("button", { type: "button", class: "link", onclick: go, "aria-label": isBack ? `Back to the mark of footnote ${label}` : `Footnote ${label}` }, label));
}

function dressCode(code, { clean, isUnfinished }) {
  const language = /language-([\w+#-]+)/.exec(code.className)?.[1] ?? "";
  const pre = code.parentElement;
  pre.tabIndex = 0; // so that a keyboard can scroll it
  const head = h("div", { class: "code-head" }, h("span", {}, language || "code"), copyButton(() => code.textContent));
  const frame = h("div", { class: "code" }, head);
  pre.replaceWith(frame);
  frame.append(pre);
  if (!isUnfinished) color(code, { clean, language });
}

// The two large libraries come when something needs them: the page is there before. The one for formulas brings a font,
// since without one brackets and roots do not stretch.

let highlighter = null;

async function color(code, { clean, language }) {
  highlighter ??= import("../../vendor/highlight.js").then((module) => module.default);
  const library = await highlighter.catch(() => null);
  if (!library || code.textContent.length > MAX_COLORED) return;
  const result = library.getLanguage(language)
    ? library.highlight(code.textContent, { language, ignoreIllegals: true })
    : language ? null : library.highlightAuto(code.textContent);
  if (result) code.replaceChildren(clean(result.value));
}

let formulaLibrary = null;

async function showFormulas(elements) {
  formulaLibrary ??= loadFormulas();
  const temml = await formulaLibrary.catch(() => null);
  for (const element of temml ? elements : []) {
    const tex = element.textContent;
    const displayMode = element.classList.contains("block");
    temml.render(tex, element, { displayMode, throwOnError: false, trust: false });
    dropNames(element);
    if (displayMode) widths.observe(element);
  }
}

/** Take away the names that \label gives to elements, which may be those of the page's own, and the links of \ref to them. */
function dropNames(element) {
  for (const named of element.querySelectorAll("[id]")) named.removeAttribute("id");
  for (const link of element.querySelectorAll(".tml-ref")) {
    const name = link.getAttribute("href").replace("#", "");
    const math = link.closest("math"); // null if the formula is that link alone
    if (!math) link.replaceWith(name);
    else link.replaceWith(Object.assign(document.createElementNS(math.namespaceURI, "mtext"), { textContent: name }));
  }
}

/** Formulas that are wider than the page, and only those, are places where a keyboard stops, to scroll them. */
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

async function loadFormulas() {
  document.head.append(h("link", { rel: "stylesheet", href: new URL("../../vendor/temml.css", import.meta.url) }));
  return (await import("../../vendor/temml.js")).default;
}
