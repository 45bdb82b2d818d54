// Markdown to elements. What a model wrote may be hostile: its HTML is cleaned before it is shown, and nothing is loaded
// from other servers, pictures included, since an address can leak the conversation to another server's log.

import DOMPurify from "../../vendor/purify.js";
import { h } from "../../shared/dom.js";
import { putInPlace } from "../../shared/focus.js";
import { newBlocks, placeAfter, toHtml } from "./blocks.js";
import { dress } from "./dress.js";

const CLEAN = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "button", "textarea", "select", "img", "audio", "video", "iframe", "dialog"],
  FORBID_ATTR: ["style", "id", "name"],
  RETURN_DOM_FRAGMENT: true,
};

// Classes style the page, so an answer gets none but those that its code, formulas and footnotes need.
DOMPurify.addHook("uponSanitizeAttribute", (_, attribute) => {
  if (attribute.attrName !== "class") return;
  attribute.attrValue = attribute.attrValue.split(/\s+/).filter((name) => /^(language-|hljs|math$|block$|footnote)/.test(name)).join(" ");
});

const clean = (html) => DOMPurify.sanitize(html, CLEAN);

/**
 * Show `text` in `container`. Called again with more text it reads and touches only what can have changed, so that a long
 * answer costs no more for each token than a short one.
 */
export function renderMarkdown(container, text, { isDone }) {
  const plain = text.replace(/\r\n?/g, "\n");
  const { blocks, links, place } = newBlocks(plain, container.markdown, { isDone });
  const shown = [...container.children];
  const hasLinks = Object.keys(links).length > 0;
  let { headings } = shown[place.numBlocks - 1] ?? { headings: [] };
  blocks.forEach((block, index) => {
    const old = shown[place.numBlocks + index];
    const isUnfinished = !isDone && index === blocks.length - 1;
    const mayHaveLink = hasLinks && block.raw.includes("[");
    if (old?.raw !== block.raw || old.isUnfinished !== isUnfinished || mayHaveLink) {
      const element = blockElement(block, { links, isUnfinished, headings });
      if (old) putInPlace(old, element);
      else container.append(element);
      headings = element.headings;
    } else headings = old.headings;
  });
  shown.slice(place.numBlocks + blocks.length).forEach((element) => element.remove());
  container.markdown = { text: plain, place: placeAfter(place, blocks) };
}

function blockElement(block, { links, isUnfinished, headings }) {
  const element = h("div", { class: block.isContinued ? "block continued" : "block" });
  element.raw = block.raw;
  element.isUnfinished = isUnfinished;
  element.append(clean(toHtml(block, links)));
  element.headings = dress(element, { clean, isUnfinished, headings });
  return element;
}
