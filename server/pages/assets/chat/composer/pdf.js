// The text of PDFs, read by pdf.js, which comes from this server as all else does, when the first PDF is attached.

import * as library from "../../vendor/pdf.js";

library.GlobalWorkerOptions.workerSrc = new URL("../../vendor/pdf.worker.js", import.meta.url).href;

/** Which characters the codes of Chinese, Japanese and Korean fonts mean, for PDFs that do not say it themselves. */
class CharacterMaps {
  static #all = null;

  async fetch({ kind, filename }) {
    CharacterMaps.#all ??= fetch(new URL("../../vendor/cmaps.bin", import.meta.url)).then((response) => response.arrayBuffer());
    const all = await CharacterMaps.#all;
    const start = 4 + new DataView(all).getUint32(0);
    const index = JSON.parse(new TextDecoder().decode(new Uint8Array(all, 4, start - 4)));
    if (kind !== "cMapUrl" || !(filename in index)) throw new Error(`${filename} is not here`);
    const [offset, length] = index[filename];
    return new Uint8Array(all.slice(start + offset, start + offset + length));
  }
}

// A hostile PDF is read in a worker, and nothing of it is run or drawn.
const OPTIONS = {
  BinaryDataFactory: CharacterMaps, useWorkerFetch: false, cMapUrl: "cmaps/", cMapPacked: true,
  isEvalSupported: false, disableFontFace: true, useSystemFonts: false, useWasm: false, enableXfa: false,
  isOffscreenCanvasSupported: false, isImageDecoderSupported: false, verbosity: 0,
};

/** Yield each page's {text, numPages}. Throws Error, in words, if the file cannot be read. */
export async function* pagesOfPdf(data, name) {
  const task = library.getDocument({ ...OPTIONS, data });
  try {
    const file = await task.promise;
    for (let number = 1; number <= file.numPages; number += 1) {
      const page = await file.getPage(number);
      const { items } = await page.getTextContent();
      yield { text: items.map(({ str, hasEOL }) => (hasEOL ? `${str}\n` : str)).join(""), numPages: file.numPages };
      page.cleanup();
    }
  } catch (error) {
    throw new Error(reasonOf(error, name));
  } finally {
    task.destroy();
  }
}

function reasonOf(error, name) {
  if (error.name === "PasswordException") return `“${name}” is protected by a password. Save it without one, and attach it again.`;
  return `“${name}” cannot be read as a PDF: ${error.message}`;
}
