// The texts of files: text files as they are, and what PDFs have of it.

import { count } from "../../shared/count.js";

const MAX_TEXT_BYTES = 1 << 20;
const MAX_PDF_BYTES = 64 << 20;
const LONG_CHARACTERS = 4000;
const LONG_LINES = 60;

/** Whether a pasted text is rather a file than a message. */
export const isLong = (text) => text.length > LONG_CHARACTERS || text.split("\n").length > LONG_LINES;

/**
 * Whether files are what is pasted, and `text` at most their names: programs put pictures beside texts, such as cells of
 * a sheet.
 */
export const isOfFiles = (files, text) => files.length > 0 && (text === "" || [...files].every(({ name }) => text.includes(name)));

/**
 * Read a file's text: {text, note}, with a note if some of it was left out. Throws Error, in words, if the model cannot get
 * it. `onProgress(text)` is called while a long file is read.
 */
export async function readFile(file, onProgress) {
  const isPdf = (await file.slice(0, 1024).text()).includes("%PDF-");
  check(file, isPdf ? MAX_PDF_BYTES : MAX_TEXT_BYTES);
  if (isPdf) return readPdf(file, onProgress);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return { text, note: "" };
  } catch {
    // as below
  }
  throw new Error(`“${file.name}” is neither a text file nor a PDF. The model reads text only.`);
}

function check({ name, size }, maxBytes) {
  if (size === 0) throw new Error(`“${name}” is empty: there is no text to attach.`);
  if (size <= maxBytes) return;
  throw new Error(`“${name}” has ${(size / 1e6).toFixed(1)} MB; the limit is ${maxBytes >> 20} MB${maxBytes === MAX_TEXT_BYTES ? ", which is more than most contexts hold" : ""}.`);
}

async function readPdf(file, onProgress) {
  const { pagesOfPdf } = await import("./pdf.js").catch(() => {
    throw new Error("The part of this page that reads PDFs cannot be loaded: the server cannot be reached.");
  });
  const pages = [];
  let size = 0;
  let numPages = 0;
  for await (const page of pagesOfPdf(await file.arrayBuffer(), file.name)) {
    numPages = page.numPages;
    size += new Blob([page.text]).size;
    if (size > MAX_TEXT_BYTES) break;
    pages.push(page.text);
    onProgress(` page ${pages.length} of ${numPages}`);
  }
  const text = joinPages(pages);
  if (!text) throw new Error(`“${file.name}” has no text: its ${count(numPages, "page")} may be scanned pictures. The model reads text only.`);
  const note = pages.length < numPages ? `Of “${file.name}”, pages 1 to ${pages.length} of ${numPages} were attached: a file may have ${MAX_TEXT_BYTES >> 20} MB of text.` : "";
  return { text, note };
}

/** The texts of pages as one, with the numbers of the pages; "" if none has any. */
export function joinPages(pages) {
  if (pages.every((text) => !text.trim())) return "";
  if (pages.length === 1) return pages[0].trim();
  return pages.map((text, index) => `--- Page ${index + 1} ---\n${text.trim()}`).join("\n\n");
}
