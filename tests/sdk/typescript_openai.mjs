// npm openai against the demo: answers, streams, errors, and which key went out.
import assert from "node:assert/strict";
import OpenAI from "openai";

const card = JSON.parse(process.argv[2]);
const messages = [{ role: "user", content: "Name three rivers." }];
const model = "gpt-5.4-nano";
const client = new OpenAI({ baseURL: `${card.url}/v1`, apiKey: card.tokens.northwind });

const arrived = async () =>
  (await (await fetch(`${card.sandbox_url}/sandbox/requests?limit=1`)).json()).requests[0];

const { data, response } = await client.chat.completions
  .create({ model, max_completion_tokens: 64, messages })
  .withResponse();
const said = data.choices[0].message.content;
assert.ok(said);
assert.equal(response.headers.get("x-keyward-key"), "openai-search@1");
assert.equal((await arrived()).credential_header, "authorization");

let text = "";
for await (const chunk of await client.chat.completions.create({ model, max_completion_tokens: 64, messages, stream: true })) {
  assert.equal(chunk.choices.length, 1, "the chunk of usage that nobody asked for stays away");
  text += chunk.choices[0].delta.content ?? "";
}
assert.equal(text, said);

const stream = client.responses.stream({ model: "gpt-6-luna", max_output_tokens: 64, input: "Name three rivers." });
const kinds = new Set();
for await (const event of stream) kinds.add(event.type);
assert.ok(kinds.has("response.output_text.delta") && kinds.has("response.completed"));
assert.ok((await stream.finalResponse()).usage.output_tokens > 1);

const vectors = await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
assert.equal(vectors.data[1].embedding.length, 8);
assert.ok((await client.models.list()).data.length > 5);

const service = new OpenAI({ baseURL: `${card.url}/v1`, apiKey: card.service_token });
for (const [kind, code, headers, who] of [
  [OpenAI.NotFoundError, "keyward_key_not_found", { "x-keyward-key": "no" }, client],
  [OpenAI.BadRequestError, "keyward_provider_mismatch", { "x-keyward-key": "production" }, client],
  [OpenAI.PermissionDeniedError, "keyward_gate_closed", { "x-keyward-tenant": "hooli" }, service],
  [OpenAI.BadRequestError, "keyward_invalid_request", {}, service],
]) {
  const started = performance.now();
  await assert.rejects(
    who.chat.completions.create({ model, max_completion_tokens: 8, messages }, { headers }),
    (error) => error instanceof kind && error.code === code,
  );
  assert.ok(performance.now() - started < 400, "a refusal must not be retried");
}
console.log("npm openai works");
