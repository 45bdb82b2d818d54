// Markdown to elements. What a model wrote may be hostile: its HTML is cleaned before it is shown, and nothing is loaded
// from other servers, pictures included, since an address can leak the conversation to another server's log.

import DOMPurify from "../../vendor/purify.js";
import { copyButton, h } from "../../shared/dom.js";
import { newBlocks, placeAfter, toHtml } from "./blocks.js";

const CLEAN = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "button", "textarea", "select", "img", "audio", "video", "iframe", "dialog"],
  FORBID_ATTR: ["style", "id", "name"],
  RETURN_DOM_FRAGMENT: true,
};

// Classes style the page, so an answer gets none but those that its code and formulas need.
DOMPurify.addHook("uponSanitizeAttribute", (_, attribute) => {
  if (attribute.attrName !== "class") return;
  attribute.attrValue = attribute.attrValue.split(/\s+/).filter((name) => /^(language-|hljs|math$|block$)/.test(name)).join(" ");
});

/**
 * Show `text` in `container`. Called again with more text it reads and touches only what can have changed, so that a long
 * answer costs no more for each token than a short one.
 */
export function renderMarkdown(container, text, { isDone }) {
  const plain = text.replace(/\r\n?/g, "\n");
  const { blocks, links, place } = newBlocks(plain, container.markdown, { isDone });
  const shown = [...container.children];
  blocks.forEach((block, index) => {
    const old = shown[place.numBlocks + index];
    const isUnfinished = !isDone && index === blocks.length - 1;
    if (old?.raw === block.raw && old.isUnfinished === isUnfinished && Object.keys(links).length === 0) return;
    const element = blockElement(block, links, isUnfinished);
    if (old) old.replaceWith(element);
    else container.append(element);
  });
  shown.slice(place.numBlocks + blocks.length).forEach((element) => element.remove());
  container.markdown = { text: plain, place: placeAfter(place, blocks) };
}

function blockElement(block, links, isUnfinished) {
  const element = h("div", { class: block.isContinued ? "block continued" : "block" });
  element.raw = block.raw;
  element.isUnfinished = isUnfinished;
  element.append(DOMPurify.sanitize(toHtml(block, links), CLEAN));
  dress(element, isUnfinished);
  return element;
}

function dress(element, isUnfinished) {
  for (const link of element.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of element.querySelectorAll("table")) {
    const frame = h("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const code of element.querySelectorAll("pre > code")) dressCode(code, isUnfinished);
  const formulas = element.querySelectorAll(".math");
  if (formulas.length > 0 && !isUnfinished) showFormulas(formulas);
}

function dressCode(code, isUnfinished) {
  const language = /language-([\w+#-]+)/.exec(code.className)?.[1] ?? "";
  const pre = code.parentElement;
  pre.tabIndex = 0; // so that a keyboard can scroll it
  const head = h("div", { class: "code-head" }, h("span", {}, language || "code"), copyButton(() => code.textContent));
  const frame = h("div", { class: "code" }, head);
  pre.replaceWith(frame);
  frame.append(pre);
  if (!isUnfinished) color(code, language);
}

// The two large libraries come when something needs them: the page is there before.

let highlighter = null;

async function color(code, language) {
  highlighter ??= import("../../vendor/highlight.js").then((module) => module.default);
  const library = await highlighter.catch(() => null);
  if (!library || code.textContent.length > 100_000) return;
  const result = library.getLanguage(language)
    ? library.highlight(code.textContent, { language, ignoreIllegals: true })
    : language ? null : library.highlightAuto(code.textContent);
  if (result) code.replaceChildren(DOMPurify.sanitize(result.value, CLEAN));
}

let formulaLibrary = null;

async function showFormulas(elements) {
  formulaLibrary ??= import("../../vendor/temml.js").then((module) => module.default);
  const temml = await formulaLibrary.catch(() => null);
  for (const element of temml ? elements : []) {
    const tex = element.textContent;
    temml.render(tex, element, { displayMode: element.classList.contains("block"), throwOnError: false, trust: false });
  }
}
