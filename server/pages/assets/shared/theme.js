// Light or dark: as the system has it, until the reader chooses.

import { keep, kept } from "./kept.js";

const KEY = "headrace.theme";

export function applyTheme() {
  const chosen = kept(KEY);
  if (chosen) document.documentElement.dataset.theme = chosen;
}

export function switchTheme() {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  keep(KEY, isDark ? "light" : "dark");
  applyTheme();
}
