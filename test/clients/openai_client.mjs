// OpenAI's Node client, unmodified, against AKIDB_URL. Prints "ok ..." or "FAIL ..." for each check.
import { createRequire } from "node:module";

const OpenAI = createRequire(process.env.AKIDB_NODE_MODULES)("openai").default;
const baseURL = process.env.AKIDB_URL + "/v1";
const apiKey = process.env.AKIDB_API_KEY || "none-needed";
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60000 });
const model = process.env.AKIDB_MODEL || (await client.models.list()).data[0].id;

async function check(name, run) {
  try {
    await run();
    console.log("ok   node: " + name);
  } catch (e) {
    console.log(`FAIL node: ${name}: ${e?.constructor?.name}: ${e?.message}`);
  }
}

function assert(what, ...detail) {
  if (!what) throw new Error("assertion failed: " + JSON.stringify(detail));
}

const embed = (input, options = {}) => client.embeddings.create({ model, input, ...options });

function cosine(a, b) {
  assert(a.length === b.length, a.length, b.length);
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return dot / Math.sqrt(aa * bb);
}

async function rejects(errorClass, status, call, message = "") {
  let error;
  try { await call(); } catch (e) { error = e; }
  assert(error, "nothing was thrown");
  assert(error.constructor === errorClass, error.constructor.name, "want", errorClass.name);
  assert(error.status === status, error.status, "want", status);
  assert(error.error?.message && error.type && error.code, "body", error.error);
  assert(error.error.message.includes(message), error.error.message, "want", message);
  return error;
}

await check("list and retrieve models", async () => {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  assert(ids.includes(model), ids);
  assert((await client.models.retrieve(model)).id === model);
});

await check("single text, base64 by default", async () => {
  const r = await embed("hello world");
  const v = r.data[0].embedding;
  assert(Array.isArray(v) && v.length >= 2 && v.every(Number.isFinite), typeof v);
  assert(r.object === "list" && r.data[0].index === 0 && r.usage.total_tokens > 0, r.usage);
});

await check("batch equals single, in order", async () => {
  const texts = ["one", "two words", "Grüße, 世界 🌍"];
  const r = await embed(texts);
  for (let i = 0; i < texts.length; i++) {
    assert(r.data[i].index === i);
    assert(cosine((await embed(texts[i])).data[0].embedding, r.data[i].embedding) > 0.9999, texts[i]);
  }
  assert(cosine(r.data[0].embedding, r.data[2].embedding) < 0.999, "different texts gave the same vector");
});

await check("base64 and float are equal", async () => {
  const decoded = (await embed("the same")).data[0].embedding;
  const floats = (await embed("the same", { encoding_format: "float" })).data[0].embedding;
  const raw = (await embed("the same", { encoding_format: "base64" })).data[0].embedding;
  const bytes = Buffer.from(raw, "base64");
  const values = Array.from(new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)));
  assert(typeof raw === "string" && values.length === floats.length && decoded.length === floats.length);
  for (let i = 0; i < floats.length; i++) {
    assert(Math.abs(Math.fround(floats[i]) - values[i]) < 1e-5 && Math.abs(decoded[i] - values[i]) < 1e-5, i, floats[i], values[i], decoded[i]);
  }
});

await check("dimensions", async () => {
  const n = (await embed("cut me")).data[0].embedding.length / 2;
  const v = (await embed("cut me", { dimensions: n })).data[0].embedding;
  assert(v.length === n && Math.abs(v.reduce((s, x) => s + x * x, 0) - 1) < 1e-3, v.length, n);
});

await check("headers of the raw answer", async () => {
  const { response } = await client.embeddings.create({ model, input: "x" }).withResponse();
  assert(response.headers.get("x-akidb-node") && response.headers.get("x-akidb-model").includes("@") && response.headers.get("x-request-id"));
});

await check("BadRequestError: empty list, empty string, 2049 inputs, token ids", async () => {
  await rejects(OpenAI.BadRequestError, 400, () => embed([]), "got 0");
  assert((await rejects(OpenAI.BadRequestError, 400, () => embed(["a", ""]), "input[1]")).param === "input");
  await rejects(OpenAI.BadRequestError, 400, () => embed(Array(2049).fill("a")), "got 2049");
  await rejects(OpenAI.BadRequestError, 400, () => embed([1, 2]), "check_embedding_ctx_length=False");
});

await check("NotFoundError: unknown model", async () => {
  const e = await rejects(OpenAI.NotFoundError, 404, () => embed("x", { model: "no-such-model" }), "no-such-model");
  assert(e.code === "model_not_found", e.code);
  await rejects(OpenAI.NotFoundError, 404, () => client.models.retrieve("no-such-model"));
});

if (process.env.AKIDB_API_KEY) {
  await check("AuthenticationError: wrong key", async () => {
    const wrong = new OpenAI({ baseURL, apiKey: "wrong-key-wrong-key", maxRetries: 0 });
    await rejects(OpenAI.AuthenticationError, 401, () => wrong.embeddings.create({ model, input: "x" }));
  });
}

if (process.env.AKIDB_FAULTS === "1") {
  await check("RateLimitError and InternalServerError", async () => {
    await rejects(OpenAI.RateLimitError, 429, () => embed("x", { model: "fault-overloaded" }));
    for (const [name, status] of [["unavailable", 503], ["deadline", 504], ["internal", 500]]) {
      await rejects(OpenAI.InternalServerError, status, () => embed("x", { model: "fault-" + name }));
    }
  });
}
