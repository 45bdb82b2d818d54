import assert from "node:assert/strict";
import { test } from "node:test";
import { isOfFiles, readFile } from "../assets/chat/composer/files.js";

test("pasted cells are text, though a picture of them comes along", () => {
  const files = (...names) => names.map((name) => ({ name }));
  assert.equal(isOfFiles(files("image.png"), "1\t2\n3\t4"), false);
  assert.equal(isOfFiles(files("image.png"), ""), true);
  assert.equal(isOfFiles(files("a.txt", "b.txt"), "/home/me/a.txt\n/home/me/b.txt"), true);
  assert.equal(isOfFiles(files(), ""), false);
});

test("an empty file is refused, whatever its name says", async () => {
  await assert.rejects(readFile(new File([], "report.pdf"), () => {}), { message: "“report.pdf” is empty: there is no text to attach." });
});
