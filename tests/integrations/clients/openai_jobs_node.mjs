// OpenAI's client for Node over embeddings, files, uploads, batches and fine-tuning, with lists that come in pages.
// Arguments: the server, its key, the model and a model that makes embeddings.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { toFile } from "openai";

const [url, apiKey, model, embedder] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const ENDED = ["completed", "failed", "expired", "cancelled", "succeeded"];

const lines = (rows) => rows.map((row) => JSON.stringify(row)).join("\n");
const upload = async (rows, purpose) =>
  client.files.create({ file: await toFile(Buffer.from(lines(rows)), "lines.jsonl"), purpose });

async function all(page) {
  const found = [];
  for await (const each of page) found.push(each);
  return found;
}

async function ended(resource, id) {
  for (const deadline = Date.now() + 300_000; Date.now() < deadline; await sleep(100)) {
    const job = await resource.retrieve(id);
    if (ENDED.includes(job.status)) return job;
  }
  throw new Error(`${id} has not ended`);
}

{
  const asked = { model: embedder, input: ["What floats?", "A boat floats."] };
  const decoded = (await client.embeddings.create(asked)).data; // the client asks for base64
  const plain = (await client.embeddings.create({ ...asked, encoding_format: "float" })).data;
  assert.equal(plain.length, 2);
  decoded.forEach(({ embedding }, index) => {
    embedding.forEach((value, at) => assert.ok(Math.abs(value - plain[index].embedding[at]) < 1e-6));
    const cosine = embedding.reduce((sum, value, at) => sum + value * plain[index].embedding[at], 0);
    assert.ok(Math.abs(cosine - 1) < 1e-3);
  });
  await assert.rejects(client.embeddings.create({ ...asked, dimensions: 7 }), { status: 400, param: "dimensions" });
  console.log("embeddings");
}
{
  const made = [];
  for (let size = 1; size <= 5; size++) {
    const file = await toFile(Buffer.alloc(size, "x"), `${size}.txt`);
    made.push((await client.files.create({ file, purpose: "evals" })).id);
  }
  const ids = async (query) => (await all(client.files.list({ purpose: "evals", limit: 2, ...query }))).map(({ id }) => id);
  assert.deepEqual(await ids({}), made.toReversed());
  assert.deepEqual(await ids({ order: "asc" }), made);
  assert.equal((await client.files.waitForProcessing(made[2])).bytes, 3);
  assert.equal(await (await client.files.content(made[2])).text(), "xxx");
  for (const id of made) assert.ok((await client.files.delete(id)).deleted);
  await assert.rejects(client.files.retrieve(made[2]), { status: 404 });
  console.log("files");
}
{
  const content = Buffer.alloc(3000, "headrace");
  const kinds = { filename: "large.bin", mime_type: "application/octet-stream", purpose: "evals" };
  const begun = await client.uploads.create({ bytes: content.length, ...kinds });
  const parts = await Promise.all(
    [0, 1, 2].map(async (n) =>
      client.uploads.parts.create(begun.id, { data: await toFile(content.subarray(n * 1000, n * 1000 + 1000)) }),
    ),
  );
  const done = await client.uploads.complete(begun.id, { part_ids: parts.map(({ id }) => id) });
  assert.equal(done.status, "completed");
  assert.equal(await (await client.files.content(done.file.id)).text(), content.toString());
  const other = await client.uploads.create({ bytes: 10, ...kinds });
  assert.equal((await client.uploads.cancel(other.id)).status, "cancelled");
  console.log("uploads");
}
{
  const create = async (endpoint, bodies) => {
    const rows = Object.entries(bodies).map(([custom_id, body]) => ({ custom_id, method: "POST", url: endpoint, body }));
    const input_file_id = (await upload(rows, "batch")).id;
    return client.batches.create({ input_file_id, endpoint, completion_window: "24h", metadata: { of: endpoint } });
  };
  const read = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map((row) => JSON.parse(row));
  const hot = { temperature: -1 };
  const made = [];
  for (const [endpoint, body, wrong, found] of [
    ["/v1/chat/completions", { model, messages, max_tokens: 8 }, hot, ({ choices }) => choices[0].message.content],
    ["/v1/completions", { model, prompt: "One, two,", max_tokens: 8 }, hot, ({ choices }) => choices[0].text],
    ["/v1/responses", { model, input: "Say hello.", max_output_tokens: 8 }, hot, ({ output }) => output.length],
    ["/v1/embeddings", { model: embedder, input: ["What floats?", "A boat."] }, { dimensions: 7 }, ({ data }) => data[1]],
  ]) {
    made.push((await create(endpoint, { a: body, b: body, wrong: { ...body, ...wrong } })).id);
    const batch = await ended(client.batches, made.at(-1));
    assert.equal(batch.status, "completed");
    assert.deepEqual(batch.metadata, { of: endpoint });
    assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
    const answers = await read(batch.output_file_id);
    assert.deepEqual(answers.map(({ custom_id }) => custom_id).sort(), ["a", "b"]);
    assert.ok(answers.every(({ response }) => found(response.body)));
    const [fault] = await read(batch.error_file_id);
    assert.equal(fault.response.body.error.param, Object.keys(wrong)[0]);
  }

  const endless = { model, messages, max_tokens: 400, ignore_eos: true };
  const bodies = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`line ${n}`, endless]));
  made.push((await create("/v1/chat/completions", bodies)).id);
  await client.batches.cancel(made.at(-1));
  assert.equal((await ended(client.batches, made.at(-1))).status, "cancelled");
  const listed = (await all(client.batches.list({ limit: 2 }))).map(({ id }) => id);
  assert.deepEqual(listed.slice(0, made.length), made.toReversed());
  const unknown = { input_file_id: "file-none", endpoint: "/v1/embeddings", completion_window: "24h" };
  await assert.rejects(client.batches.create(unknown), { status: 404 });
  console.log("batches");
}
{
  const { jobs } = client.fineTuning;
  const chats = Array.from({ length: 12 }, (_, n) => ({
    messages: [{ role: "user", content: `What is ${n}?` }, { role: "assistant", content: `It is number ${n}.` }],
  }));
  const training_file = (await upload(chats, "fine-tune")).id;
  const hyperparameters = { n_epochs: 2, batch_size: 6, replay: 0 };
  const metadata = { by: "node" };
  const method = { type: "supervised", supervised: { hyperparameters } };
  const made = await jobs.create({ model, training_file, suffix: "node", seed: 1, metadata, method });
  const job = await ended(jobs, made.id);
  assert.equal(job.status, "succeeded", JSON.stringify(job.error));
  const events = await all(jobs.listEvents(job.id, { limit: 2 }));
  assert.equal(new Set(events.map(({ id }) => id)).size, events.length);
  assert.deepEqual(events.filter(({ type }) => type === "metrics").map(({ data }) => data.step), [4, 3, 2, 1]);
  const checkpoints = await all(jobs.checkpoints.list(job.id, { limit: 1 }));
  assert.deepEqual(checkpoints.map(({ step_number }) => step_number), [4, 2]);
  for (const name of [job.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint]) {
    const answer = await client.chat.completions.create({ model: name, messages, max_tokens: 8 });
    assert.equal(answer.model, name);
  }
  assert.ok((await client.models.delete(job.fine_tuned_model)).deleted);

  const second = await jobs.create({ model, training_file, hyperparameters: { n_epochs: 50 } });
  assert.equal((await jobs.pause(second.id)).status, "paused");
  await jobs.resume(second.id);
  assert.equal((await jobs.cancel(second.id)).status, "cancelled");
  assert.deepEqual((await all(jobs.list({ metadata, limit: 1 }))).map(({ id }) => id), [job.id]);
  assert.deepEqual((await all(jobs.list({ limit: 1 }))).map(({ id }) => id).slice(0, 2), [second.id, job.id]);
  console.log("fine-tuning");
}
