// Markdown text as blocks, read anew only from where more text can change them. Tests run it without a browser.

import { Lexer, marked } from "../../vendor/marked.js";
import { MAX_FORMULA } from "./syntax.js";

const MAX_ITEMS = 40; // of a list in one block; a longer one is several, or each token would cost as much as all of it

/**
 * The blocks of `text` from a place on: {blocks, links, place}. `before`: {text, place} of the last reading; the place is
 * its own if `text` begins with that text, and else the beginning. A text with links by name is read from its beginning
 * when it `isDone`: blocks above may use what came below them.
 */
export function newBlocks(text, before, { isDone = false } = {}) {
  const place = before && text.startsWith(before.text) ? before.place : { numBlocks: 0, offset: 0, isInList: false, links: {} };
  const lexer = new Lexer();
  Object.assign(lexer.tokens.links, place.links);
  const found = lexer.lex(text.slice(place.offset));
  if (isDone && place.offset > 0 && Object.keys(found.links).length > 0) return newBlocks(text);
  const blocks = found.flatMap(pieces);
  if (place.isInList && blocks[0]?.type === "list") blocks[0].isContinued = true;
  return { blocks, links: found.links, place };
}

/** A block as HTML, which is as harmless as its text. `links`: those that its references may mean. */
export const toHtml = (block, links) => marked.parser(Object.assign([block], { links }));

/** From where on more text can change the blocks: from the last one that is more than empty lines, or an open formula. */
export function placeAfter({ numBlocks, offset, links }, blocks) {
  let last = blocks.length - 1;
  while (last > 0 && blocks[last].type === "space") last -= 1;
  const open = openFormula(blocks);
  if (open >= 0) last = Math.min(last, open);
  const settled = blocks.slice(0, Math.max(0, last));
  return {
    numBlocks: numBlocks + settled.length,
    offset: offset + settled.reduce((length, { raw }) => length + raw.length, 0),
    isInList: blocks[last]?.isContinued === true,
    links: { ...definitions(settled), ...links },
  };
}

/** The links and footnotes that blocks define, by their names. */
function definitions(blocks) {
  const links = {};
  marked.walkTokens(blocks, ({ type, tag, href, title }) => {
    if (type === "def" || type === "footnote") links[tag] ??= { href, title };
  });
  return links;
}

/** The first block in which a formula may begin whose end is still to come; -1 without one. */
function openFormula(blocks) {
  const text = blocks.map(({ raw }) => raw).join("");
  let end = 0;
  return blocks.findIndex(({ type, raw }) => {
    const begin = end;
    end += raw.length;
    if (!["paragraph", "heading", "table"].includes(type)) return false;
    return [...raw.matchAll(/^(?:\$\$|\\\[)/gm)].some(({ index }) => mayBecomeFormula(text.slice(begin + index)));
  });
}

const mayBecomeFormula = (source) => source.length < MAX_FORMULA + 4 && /^(?:\$\$[^$]*\$?$|\\\[)/.test(source);

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
