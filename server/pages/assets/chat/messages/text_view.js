// The text of an answer: as Markdown, as it was written, or token by token.

import { renderMarkdown } from "./markdown.js";
import { renderTokens } from "./token_view.js";

/** Show `text` in `container`, which holds what was shown of it before. `tokens`: null, or those of the text. */
export function renderText(container, text, { tokens = null, isAsWritten, isDone }) {
  const form = isAsWritten ? "written" : tokens ? "tokens" : "markdown";
  if (container.dataset.form !== form) {
    container.replaceChildren();
    container.markdown = null;
    container.dataset.form = form;
  }
  if (form === "written") renderWritten(container, text);
  else if (form === "tokens") renderTokens(container, tokens);
  else renderMarkdown(container, text, { isDone });
}

/** What is there stays, and may stay selected. */
function renderWritten(container, text) {
  const shown = container.textContent;
  if (text === shown) return;
  if (text.startsWith(shown)) container.append(text.slice(shown.length));
  else container.replaceChildren(text);
}
