// OpenAI's client for Node over embeddings, files and batches on each route.
// Arguments: the server, its key, the model and a model that makes embeddings.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const [url, apiKey, model, embedder] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const input = ["What floats?", "A boat floats on water."];

{
  const packed = await client.embeddings.create({ model: embedder, input }); // the client asks for base64 by itself
  const plain = await client.embeddings.create({ model: embedder, input, encoding_format: "float" });
  assert.equal(plain.data.length, 2);
  plain.data.forEach(({ embedding }, row) =>
    embedding.forEach((value, at) => assert.ok(Math.abs(value - packed.data[row].embedding[at]) < 1e-6)),
  );
  console.log("embeddings");
}
for (const [endpoint, body, found] of [
  ["/v1/chat/completions", { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 4 }, (a) => a.choices],
  ["/v1/completions", { model, prompt: "Hi", max_tokens: 4 }, (a) => a.choices],
  ["/v1/responses", { model, input: "Hi", max_output_tokens: 4 }, (a) => a.output],
  ["/v1/embeddings", { model: embedder, input }, (a) => a.data],
]) {
  const ids = ["a", "b", "c"];
  const lines = ids.map((custom_id) => JSON.stringify({ custom_id, method: "POST", url: endpoint, body }));
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join("\n"))), purpose: "batch" });
  let batch = await client.batches.create({
    input_file_id: file.id, endpoint, completion_window: "24h", metadata: { of: endpoint },
  });
  while (!["completed", "failed"].includes(batch.status)) {
    await new Promise((done) => setTimeout(done, 200));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.deepEqual([batch.status, batch.request_counts.completed, batch.metadata.of], ["completed", 3, endpoint]);
  const text = await (await client.files.content(batch.output_file_id)).text();
  const answers = text.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(answers.map((answer) => answer.custom_id).sort(), ids);
  assert.ok(answers.every((answer) => found(answer.response.body).length));
  console.log(`a batch for ${endpoint}`);
}
{
  const seen = [];
  for await (const batch of client.batches.list({ limit: 2 })) seen.push(batch.id);
  assert.ok(new Set(seen).size >= 4);
  const unknown = { input_file_id: "file-none", endpoint: "/v1/embeddings", completion_window: "24h" };
  await assert.rejects(client.batches.create(unknown), { status: 404 });
  console.log("pages and errors");
}
