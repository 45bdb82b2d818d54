// The browser's database of conversations: one record for each head and each message.
//
// Version 1 stored each conversation in one piece, so the last tab that wrote it won. Its records are split when the
// database is opened.

import { headOf, isBehind, orderByLists, recordsOf } from "./records.js";

const NAME = "headrace";
const VERSION = 2;
const HEADS = "conversations";
const MESSAGES = "messages";

let database = null;

/**
 * Open the database. Rejects where a browser has none, as in some private windows. `onBlocked`: tabs with an older
 * version of the page keep it closed until they are closed. `onLost`: the browser closed it, or a newer page needs it.
 */
export async function openDatabase({ onBlocked, onLost }) {
  const request = indexedDB.open(NAME, VERSION);
  request.onblocked = onBlocked;
  request.onupgradeneeded = ({ oldVersion }) => upgrade(request, oldVersion);
  database = await done(request);
  database.onclose = () => (database = null, onLost("closed"));
  database.onversionchange = () => (database.close(), database = null, onLost("newer"));
}

export const isOpen = () => database !== null;

function upgrade({ result, transaction }, oldVersion) {
  if (oldVersion < 1) result.createObjectStore(HEADS, { keyPath: "id" });
  const messages = result.createObjectStore(MESSAGES, { keyPath: ["conversationId", "id"] });
  const heads = transaction.objectStore(HEADS);
  heads.openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (!cursor) return;
    const conversation = cursor.value;
    orderByLists(conversation);
    for (const record of recordsOf(conversation)) messages.put(record);
    cursor.update(headOf(conversation));
    cursor.continue();
  };
}

/** All that is stored: {heads, records}. */
export async function readAll() {
  const transaction = database.transaction([HEADS, MESSAGES]);
  const [heads, records] = await Promise.all([
    done(transaction.objectStore(HEADS).getAll()), done(transaction.objectStore(MESSAGES).getAll()),
  ]);
  return { heads, records };
}

/**
 * Make `changes`, all or none, in their order. A change is one of
 * {type: "add", head, records}: a new conversation, or one that comes back;
 * {type: "messages", records}: messages of a stored conversation;
 * {type: "answer", record}: how far an answer is, unless it was deleted or another tab has more of it;
 * {type: "head", id, fields}: fields of a head, unless it was deleted;
 * {type: "remove", id, messageIds}: messages, or with null the whole conversation.
 */
export function write(changes) {
  const transaction = database.transaction([HEADS, MESSAGES], "readwrite");
  const heads = transaction.objectStore(HEADS);
  const messages = transaction.objectStore(MESSAGES);
  const make = {
    add({ head, records }) {
      heads.put(head);
      for (const record of records) messages.put(record);
    },
    messages({ records }) {
      for (const record of records) messages.put(record);
    },
    answer({ record }) {
      onResult(messages.get([record.conversationId, record.id]), (stored) => {
        if (stored && !isBehind(record, stored)) messages.put(record);
      });
    },
    head({ id, fields }) {
      onResult(heads.get(id), (stored) => stored && heads.put({ ...stored, ...fields }));
    },
    remove({ id, messageIds }) {
      if (messageIds === null) heads.delete(id), messages.delete(IDBKeyRange.bound([id], [id, []]));
      else for (const messageId of messageIds) messages.delete([id, messageId]);
    },
  };
  for (const change of changes) make[change.type](change);
  // What reads nothing is complete when the page goes in the next moment.
  if (!changes.some(({ type }) => type === "answer" || type === "head")) transaction.commit?.();
  return new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
  });
}

const onResult = (request, then) => (request.onsuccess = () => then(request.result));

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
