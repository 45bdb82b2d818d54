// Markdown text as blocks, read anew only from where more text can change them. Tests run it without a browser.

import { marked } from "../vendor/marked.js";

const MAX_ITEMS = 40; // of a list in one block; a longer one is several, or each token would cost as much as all of it

marked.use({
  gfm: true,
  extensions: [
    math("block", /^\$\$([^$]+?)\$\$|^\\\[([\s\S]+?)\\\]/, true),
    math("inline", /^\\\(([\s\S]+?)\\\)|^\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\w)/, false), // "$5 or $6" is no formula
  ],
  renderer: {
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  },
});

/** TeX becomes an element that is filled when the library for it is here. */
function math(level, pattern, isBlock) {
  return {
    name: `math-${level}`,
    level,
    start: (source) => (isBlock ? paragraph(source).search(/^(?:\$\$|\\\[)/m) : source.search(/\$|\\\(/)),
    tokenizer(source) {
      const match = pattern.exec(source);
      return match ? { type: `math-${level}`, raw: match[0], tex: match[1] ?? match[2] } : undefined;
    },
    renderer: ({ tex }) => `<span class="${isBlock ? "math block" : "math"}">${escape(tex)}</span>`,
  };
}

const escape = (text) => text.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);

/** Up to the next empty line: to look further for what may end a paragraph takes long in a long text. */
function paragraph(source) {
  const end = source.indexOf("\n\n");
  return end < 0 ? source : source.slice(0, end);
}

/**
 * The blocks of `text` from a place on: {blocks, links, place}. `before`: {text, place} of the last reading; the place is
 * its own if `text` begins with that text, and else the beginning.
 */
export function newBlocks(text, before) {
  const place = before && text.startsWith(before.text) ? before.place : { numBlocks: 0, offset: 0, isInList: false };
  const found = marked.lexer(text.slice(place.offset));
  const blocks = found.flatMap(pieces);
  if (place.isInList && blocks[0]?.type === "list") blocks[0].isContinued = true;
  return { blocks, links: found.links, place };
}

/** A block as HTML, which is as harmless as its text. `links`: those that its references may mean. */
export const toHtml = (block, links) => marked.parser(Object.assign([block], { links }));

/** From where on more text can change the blocks: from the last one that is more than empty lines. */
export function placeAfter({ numBlocks, offset }, blocks) {
  let last = blocks.length - 1;
  while (last > 0 && blocks[last].type === "space") last -= 1;
  const settled = blocks.slice(0, Math.max(0, last));
  return {
    numBlocks: numBlocks + settled.length,
    offset: offset + settled.reduce((length, { raw }) => length + raw.length, 0),
    isInList: blocks[last]?.isContinued === true,
  };
}

/** A list with many items as several. */
function pieces(block) {
  if (block.type !== "list" || block.items.length <= MAX_ITEMS) return [block];
  const found = [];
  for (let first = 0; first < block.items.length; first += MAX_ITEMS) {
    const items = block.items.slice(first, first + MAX_ITEMS);
    const start = block.ordered ? block.start + first : block.start;
    found.push({ ...block, items, start, raw: items.map(({ raw }) => raw).join(""), isContinued: first > 0 });
  }
  return found;
}
