// Conversations, kept in this browser: in IndexedDB, or in memory where a browser has none (private windows).

const NAME = "headrace";
const TABLE = "conversations";

let database = null;
const memory = new Map();

/** Open what is kept. Returns whether it outlives the page. */
export async function open() {
  try {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    database = await done(request);
    return true;
  } catch {
    return false;
  }
}

export async function loadAll() {
  const all = database ? await done(table("readonly").getAll()) : [...memory.values()];
  return all.sort((a, b) => b.updatedMs - a.updatedMs);
}

export async function save(conversation) {
  if (database) await done(table("readwrite").put(conversation));
  else memory.set(conversation.id, conversation);
}

export async function remove(id) {
  if (database) await done(table("readwrite").delete(id));
  else memory.delete(id);
}

const table = (mode) => database.transaction(TABLE, mode).objectStore(TABLE);

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
