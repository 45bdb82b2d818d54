// The chat page: connects its parts with the buttons and the keyboard, and starts it.

import { byId } from "../shared/dom.js";
import { applyTheme, switchTheme } from "../shared/theme.js";
import { isAnswering, send, showRequest, stop, watchLeaving } from "./answers/answering.js";
import { Composer } from "./composer/composer.js";
import { meterWith, showMeter } from "./composer/meter.js";
import { conversationActions, importFile, loadConversations, newChat, openAddress } from "./conversations.js";
import { askKey, showKeys, showMessage } from "./dialogs.js";
import { drawWith, show, showSidebar } from "./drawing.js";
import { editLastQuestion, messageActions } from "./messages/message_actions.js";
import { undoLast } from "./notices.js";
import { listenToTabs } from "./other_tabs.js";
import { page } from "./page.js";
import { idOf } from "./places.js";
import { watchScrolling } from "./scrolling.js";
import { chooseRival } from "./models/chooser.js";
import { connect } from "./server_state.js";
import { closeSettings, openSettings, switchSettings } from "./settings/settings_panel.js";
import { isCommand, isPlain, isTyping } from "./shortcuts.js";
import { closeSidebar, toggleSidebar } from "./sidebar.js";
import { guardUnsaved } from "./storage_notice.js";
import { exportAll, exportMarkdown } from "./transfer.js";

const composer = new Composer({
  onSend: send,
  onEditLast: editLastQuestion,
  onProblem: (text) => showMessage("The file was not attached", text),
  onChange: showMeter,
});
meterWith(() => composer.draft);
drawWith({ message: messageActions, conversation: conversationActions, suggest: (text) => composer.fill(text), showDraft: () => composer.open() });

// --- buttons ----------------------------------------------------------------------------------------------------------

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the link's own way would give the page another address
  composer.focus();
});
byId("new-chat").addEventListener("click", newChat);
byId("stop").addEventListener("click", () => stop(page.current));
byId("compare").addEventListener("click", chooseRival);
byId("theme").addEventListener("click", switchTheme);
byId("search").addEventListener("input", showSidebar);
byId("open-settings").addEventListener("click", switchSettings);
byId("open-sidebar").addEventListener("click", toggleSidebar);
byId("close-sidebar").addEventListener("click", closeSidebar);
byId("scrim").addEventListener("click", closeSidebar);
byId("show-code").addEventListener("click", showRequest);
byId("export-all").addEventListener("click", () => exportAll(page.conversations));
byId("export-one").addEventListener("click", () => exportMarkdown(page.current));
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async (event) => {
  await importFile(event.target.files[0]);
  event.target.value = "";
});

// --- the keyboard, and files that are dropped -------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (byId("dialog").open) return;
  if (event.key === "Escape") {
    if (composer.takeBack()) return;
    if (isAnswering(page.current)) stop(page.current);
    else if (!closeSettings()) closeSidebar();
  } else if (isCommand(event, "o", { shift: true })) event.preventDefault(), newChat();
  else if (isCommand(event, ",")) event.preventDefault(), openSettings();
  else if (isPlain(event, "/")) event.preventDefault(), composer.focus();
  else if (isPlain(event, "?")) showKeys();
  else if (isCommand(event, "z") && !isTyping(event) && undoLast()) event.preventDefault();
});

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  composer.attach(event.dataTransfer.files);
});

// --- start ------------------------------------------------------------------------------------------------------------

watchScrolling();
watchLeaving();
guardUnsaved();
listenToTabs();
addEventListener("popstate", openAddress);
applyTheme();
if (idOf(location.hash) === null) show(); // or when the conversation is there
composer.focus();
connect(askKey);
loadConversations();
