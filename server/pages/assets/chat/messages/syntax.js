// What models write in Markdown beyond GitHub's: formulas in TeX, and footnotes. Tests run it without a browser.

import { marked } from "../../vendor/marked.js";

export const MAX_FORMULA = 10_000; // characters of one in a paragraph of its own; as far is read for its end
const LABEL = String.raw`\[\^([^\]\s]{1,100})\]`; // a footnote's, such as [^1]
const ENVIRONMENT = String.raw`\\begin\{((?:equation|align|alignat|gather|multline|split|cases|array|[pbvBV]?matrix)\*?)\}`;

marked.use({
  gfm: true,
  extensions: [
    definitionAgain(),
    formula("math-block", {
      level: "block",
      pattern: new RegExp(String.raw`^\$\$([^$]{1,${MAX_FORMULA}}?)\$\$|^\\\[([^]{1,${MAX_FORMULA}}?)\\\](?!\()|^(${ENVIRONMENT}(?:(?!\n\n)[^]){1,${MAX_FORMULA}}?\\end\{\4\})`),
      start: (source) => paragraph(source).search(/(?<=\n)(?:\$\$|\\\[|\\begin\{)/),
      isBlock: true,
    }),
    formula("math-line", {
      level: "inline",
      pattern: new RegExp(String.raw`^\$\$([^$]{1,${MAX_FORMULA}}?)\$\$|^\\\[([^]{1,${MAX_FORMULA}}?)\\\](?!\()`),
      isBlock: true,
    }),
    formula("math-inline", {
      level: "inline",
      pattern: /^\\\(([^]+?)\\\)|^\$(?![\s$])([^$\n]+?)(?<![\s\\])\$(?!\w)/, // "$5 or $6" is no formula
      start: (source) => source.indexOf("$"), // for all that begins with it; text ends before "\\" and "[" anyway
      isBlock: false,
    }),
    footnote(),
    footnoteMark(),
  ],
  renderer: {
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  },
});

/** TeX becomes an element that is filled when the library for it is here. */
function formula(name, { level, pattern, start, isBlock }) {
  return {
    name,
    level,
    start,
    tokenizer(source) {
      const match = pattern.exec(source);
      return match ? { type: name, raw: match[0], tex: match[1] ?? match[2] ?? match[3] } : undefined;
    },
    renderer: ({ tex }) => `<span class="${isBlock ? "math block" : "math"}">${escape(tex)}</span>`,
  };
}

/** A footnote stands where it is written. To the reader of the text it is a link by name, as those of links are. */
function footnote() {
  const start = new RegExp(`(?<=\\n) {0,3}${LABEL}:`);
  // Its line, those that go on with the paragraph, and indented ones behind empty lines.
  const pattern = new RegExp(String.raw`^ {0,3}${LABEL}:[ \t]*([^\n]*(?:\n(?![ \t]*\n| {0,3}(?:\[\^|#{1,6} |[-*+] |\d+[.)] |>|~~~|\x60\x60\x60|\||\$\$))[^\n]+|(?:\n[ \t]*)+\n(?: {2,}|\t)[ \t]*[^\s][^\n]*)*)(?:\n|$)`);
  return {
    name: "footnote",
    level: "block",
    childTokens: ["tokens"],
    start: (source) => paragraph(source).search(start),
    tokenizer(source) {
      const match = pattern.exec(source);
      if (!match) return undefined;
      const [raw, label, text] = match;
      this.lexer.tokens.links[nameOf(label)] ??= { href: "", title: null };
      return { type: "footnote", raw, label, tag: nameOf(label), href: "", title: null, tokens: this.lexer.blockTokens(text.replace(/\n(?: {4}|\t)/g, "\n"), []) };
    },
    renderer({ label, tokens }) {
      return `<div class="footnote"><span class="footnote-mark">${escape(label)}</span><div>${this.parser.parse(tokens)}</div></div>`;
    },
  };
}

/** A mark without its footnote, such as a set of characters that are not wanted, is text. */
function footnoteMark() {
  const pattern = new RegExp(`^${LABEL}`);
  return {
    name: "footnote-mark",
    level: "inline",
    tokenizer(source) {
      const match = pattern.exec(source);
      return match && this.lexer.tokens.links[nameOf(match[1])] ? { type: "footnote-mark", raw: match[0], label: match[1] } : undefined;
    },
    renderer: ({ label }) => `<sup class="footnote-mark">${escape(label)}</sup>`,
  };
}

const nameOf = (label) => `^${label.toLowerCase()}`;

/** What a link's name means a second time has no effect, but its characters count: marked would drop them. */
function definitionAgain() {
  return {
    name: "definition-again",
    level: "block",
    tokenizer(source, before) {
      if (!source.startsWith("[") || ["paragraph", "text"].includes(before?.at(-1)?.type)) return undefined;
      const found = this.lexer.tokenizer.def(source);
      return found && this.lexer.tokens.links[found.tag] ? { type: "space", raw: found.raw } : undefined;
    },
  };
}

const escape = (text) => text.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);

/** Up to the next empty line: to look further for what may end a paragraph takes long in a long text. */
function paragraph(source) {
  const end = source.indexOf("\n\n");
  return end < 0 ? source : source.slice(0, end);
}
