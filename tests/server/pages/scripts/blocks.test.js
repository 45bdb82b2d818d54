import assert from "node:assert/strict";
import { test } from "node:test";
import { newBlocks, placeAfter, toHtml } from "../assets/chat/messages/blocks.js";

const LIST = Array.from({ length: 95 }, (_, index) => `${index + 1}. item ${index + 1}\n`).join("");
const TEXTS = {
  paragraphs: "one\ntwo\n\nthree\n\n\n\nfour",
  headings: "# A\ntext\n\nUnder\n---\n\nB\n===\nend",
  lists: "- a\n- b\n\n  more of b\n- c\n    - deep\n\nafter\n\n1. x\n2. y\n\n\n- z",
  code: "before\n\n```python\ndef f():\n\n    return 1\n```\nafter\n\n    indented\n\n    code\n\nend",
  table: "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nafter",
  quotes: "> a\n> b\nlazy\n\n> c",
  formulas: "It costs $5 or $x_i$.\n\n$$\n\\sum\n$$\n\ntext \\(y\\) and\n\\[z\\]\nend",
  html: "<div>\n\ntext\n\n</div>\n\n<b>x</b>",
  rules: "a\n\n---\n\n***\n\n- b\n---\n",
  links: "see [one] and [two]\n\n[one]: http://a\n\n[two]: http://b\n\nnow [one], [the second][two]\n\n> [three]: http://c\n\n[three]\n\nend",
  "links that are defined twice": "[one]: http://a\n\n[One]: http://b\n\n[one]\n\n[one]: http://c\n\n- [one]\n\nend",
  "formulas with empty lines": "before\n\n$$\na\n\nb\n$$\n\ntext\n$$\nc\n\n\nd\n$$\nmore\n\n\\[\nx\n\ny\n\\]\n\n$$\n- e\n\n# f\n$$\n\nend",
  "dollars that are no formula": "$$ is money\n\nand $5 is\n\n$$\nmore\n\n| a |\n|---|\n| $$ |\n\nafter",
  "formulas in lines": "so $$x$$ and \\[y\\] in it\nmore $$\nz\n$$ end\n\n- item:\n  \\[w\\]\n- other $$v$$\n\n\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}\nafter",
  footnotes: "one[^1] and[^note], not [^a-z]\n\n[^1]: http://a\n[^note]: Words *of* it\ngo on.\n\n    And more.\n\nbelow[^1]\n[^2]: interrupts\n# heading\n\n[^1]: again\n\nend[^2]",
  "a long list": `before\n\n${LIST}\nafter`,
};

const html = (blocks, links) => blocks.map((block) => toHtml(block, links)).join("");

/** The blocks of a text that comes in pieces, as a page holds them, and how much was read in the last step. */
function streamed(text, size, { isDone = false } = {}) {
  let shown = [];
  let before;
  let read = 0;
  for (let end = size; ; end += size) {
    const part = text.slice(0, end);
    const { blocks, place } = newBlocks(part, before, { isDone: isDone && end >= text.length });
    shown = [...shown.slice(0, place.numBlocks), ...blocks];
    before = { text: part, place: placeAfter(place, blocks) };
    read = part.length - place.offset;
    if (end >= text.length) return { shown, read };
  }
}

for (const [name, text] of Object.entries(TEXTS)) {
  test(`${name} in pieces become what they are at once`, () => {
    const { blocks, links } = newBlocks(text);
    assert.equal(blocks.map(({ raw }) => raw).join(""), text);
    for (const size of [1, 2, 3, 7, 50]) {
      const { shown } = streamed(text, size);
      assert.equal(shown.map(({ raw }) => raw).join(""), text, `in pieces of ${size}`);
      if (!["links", "footnotes"].includes(name)) assert.equal(html(shown, links), html(blocks, links), `in pieces of ${size}`);
      const done = streamed(text, size, { isDone: true });
      assert.equal(html(done.shown, links), html(blocks, links), `at last, in pieces of ${size}`);
    }
  });
}

test("a link by name is one below its definition at once, and above it at the end", () => {
  const text = "above [it]\n\n[it]: http://a\n\nwords\n\nbelow [it]\n\nend";
  const paragraphs = (options) => {
    const { shown } = streamed(text, 3, options);
    return shown.filter(({ type }) => type === "paragraph").map((block) => toHtml(block, {}).trim());
  };
  const link = '<a href="http://a">it</a>';
  assert.deepEqual(paragraphs(), ["<p>above [it]</p>", "<p>words</p>", `<p>below ${link}</p>`, "<p>end</p>"]);
  assert.deepEqual(paragraphs({ isDone: true }), [`<p>above ${link}</p>`, "<p>words</p>", `<p>below ${link}</p>`, "<p>end</p>"]);
});

const shownAs = (text) => html(newBlocks(text).blocks, {}).replaceAll("\n", "");

test("formulas are found as models write them, and prices and escapes are not", () => {
  const block = (tex) => `<span class="math block">${tex}</span>`;
  const inline = (tex) => `<span class="math">${tex}</span>`;
  assert.equal(shownAs("a $$x$$ b"), `<p>a ${block("x")} b</p>`);
  assert.equal(shownAs("a \\[ x \\] b"), `<p>a ${block(" x ")} b</p>`);
  assert.equal(shownAs("a \\(x\\) and $y$."), `<p>a ${inline("x")} and ${inline("y")}.</p>`);
  assert.equal(shownAs("1. **Area**: $$r^2$$"), `<ol><li><strong>Area</strong>: ${block("r^2")}</li></ol>`);
  assert.equal(shownAs("| a |\n|---|\n| $x$ and $$y$$ |"), shownAs("| a |\n|---|\n| Z |").replace("Z", `${inline("x")} and ${block("y")}`));
  assert.equal(shownAs("\\begin{cases} a \\\\ b \\end{cases}"), block("\\begin{cases} a \\\\ b \\end{cases}"));
  for (const text of ["from $5 to $6", "$$ is money", "\\[a link\\](http://x)", "x\\$y and $z", "\\$5 or \\$6, or $7"]) assert.ok(!shownAs(text).includes("math"), text);
});

test("columns keep their alignment", () => {
  assert.match(shownAs("| a | b | c |\n|:--|:-:|--:|\n| 1 | 2 | 3 |"), /<td align="left">1<\/td><td align="center">2<\/td><td align="right">3<\/td>/);
});

test("a footnote and its marks are found above and below it, and a mark without one is text", () => {
  const mark = '<sup class="footnote-mark">1</sup>';
  const note = '<div class="footnote"><span class="footnote-mark">1</span><div><p>The <em>note</em>, on two lines.</p></div></div>';
  assert.equal(shownAs("a[^1], [^b]\n\n[^1]: The *note*, on\ntwo lines.\n\nc[^1]").replace("on two", "ontwo"), `<p>a${mark}, [^b]</p>${note}<p>c${mark}</p>`.replace("on two", "ontwo"));
  assert.equal(shownAs("a[^1]\n[^1]: b\n[^2]: c").match(/class="footnote"/g).length, 2);
  assert.match(shownAs("[^1]: a\n\n    b\n\nc"), /<div><p>a<\/p><p>b<\/p><\/div><\/div><p>c<\/p>/);
  assert.doesNotMatch(shownAs("[^<b>]: a"), /<b>/);
});

test("behind what only seems to begin a formula a text is read again within a bound", () => {
  for (const opening of ["$$\n\n", "\\[\n\n"]) {
    const { read } = streamed(opening + "Some words more.\n\n".repeat(1000), 500);
    assert.ok(read <= 600, `${read} characters were read at last`);
  }
});

test("what has come to its end is not read again, nor are the items of a long list", () => {
  for (const unit of ["A paragraph of words.\n\n", "```\ncode\n```\n\n", "- an item of a list\n", "12. an item\n", "$$\nx\n$$\n\n"]) {
    const { read } = streamed(unit.repeat(400), 50);
    assert.ok(read <= 41 * unit.length + 50, `${read} characters were read at last of ${JSON.stringify(unit)}`);
  }
});

test("a long list keeps its numbers", () => {
  const { blocks } = newBlocks(LIST);
  assert.deepEqual(blocks.map(({ start, isContinued }) => [start, isContinued]), [[1, false], [41, true], [81, true]]);
  const { shown } = streamed(LIST, 5);
  assert.deepEqual(shown.map(({ start, isContinued }) => [start, isContinued]), [[1, false], [41, true], [81, true]]);
});

test("a text that is another one is read from its beginning", () => {
  const { blocks, place } = newBlocks("other\n\ntext", { text: "first\n\n", place: { numBlocks: 3, offset: 5, isInList: false, links: {} } });
  assert.deepEqual([place.numBlocks, place.offset, blocks.length], [0, 0, 3]);
});
