// Answers queries as the search of a built site does, by running the theme's own search script:
// node search_site.mjs SITE < QUERIES (a JSON list); prints a JSON list of the first sections found for each query.
import fs from "node:fs";
import path from "node:path";
import vm from "node:vm";

const [site] = process.argv.slice(2);
const folder = path.join(site, "assets/javascripts/workers");
const script = fs.readdirSync(folder).find((name) => /^search\..*\.js$/.test(name));

// The script is a web worker: it listens for messages and posts its answers.
let hear;
let answer;
globalThis.self = globalThis;
globalThis.addEventListener = (type, listener) => { hear = listener; };
globalThis.postMessage = (message) => answer(message);
vm.runInThisContext(fs.readFileSync(path.join(folder, script), "utf8"));
const ask = (type, data) => new Promise((resolve) => { answer = resolve; hear({ data: { type, data } }); });

const index = JSON.parse(fs.readFileSync(path.join(site, "search/search_index.json"), "utf8"));
await ask(0, { ...index, options: {} });
const found = [];
for (const query of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const { data } = await ask(2, query);
  found.push(data.items.slice(0, 3).map(([section]) => section.location));
}
console.log(JSON.stringify(found));
