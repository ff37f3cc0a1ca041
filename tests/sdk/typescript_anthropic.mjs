// npm @anthropic-ai/sdk against the demo: answers, streams, errors, and which key went out.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const card = JSON.parse(process.argv[2]);
const messages = [{ role: "user", content: "Name three rivers." }];
const client = new Anthropic({ baseURL: card.url, apiKey: card.tokens.northwind });

const arrived = async () =>
  (await (await fetch(`${card.sandbox_url}/sandbox/requests?limit=1`)).json()).requests[0];

const { data, response } = await client.messages
  .create({ model: "claude-haiku-4-5", max_tokens: 64, messages })
  .withResponse();
assert.equal(data.type, "message");
assert.equal(response.headers.get("x-keyward-usage-mode"), "byok");
const own = (await arrived()).credential_sha256;

const stream = client.messages.stream({ model: "claude-opus-5-5", max_tokens: 80, messages });
let text = "";
stream.on("text", (piece) => { text += piece; });
const final = await stream.finalMessage();
assert.equal(final.content[0].text, text);
assert.equal((await arrived()).credential_sha256, own);
assert.equal((await arrived()).credential_header, "x-api-key");

const events = [];
for await (const event of await client.messages.create({ model: "claude-haiku-4-5", max_tokens: 20, messages, stream: true })) {
  events.push(event.type);
}
assert.equal(events[0], "message_start");
assert.equal(events.at(-1), "message_stop");

assert.ok((await client.messages.countTokens({ model: "claude-haiku-4-5", messages })).input_tokens > 0);
assert.ok((await client.models.list()).data.length > 5);

const service = new Anthropic({ baseURL: card.url, apiKey: card.service_token });
for (const [kind, code, headers, who] of [
  [Anthropic.NotFoundError, "keyward_key_not_found", { "x-keyward-key": "no" }, client],
  [Anthropic.PermissionDeniedError, "keyward_key_rejected", { "x-keyward-tenant": "hooli" }, service],
  [Anthropic.APIError, "keyward_paused", { "x-keyward-tenant": "initech" }, service],
  [Anthropic.BadRequestError, "keyward_invalid_request", {}, service],
]) {
  const started = performance.now();
  await assert.rejects(
    who.messages.create({ model: "claude-haiku-4-5", max_tokens: 8, messages }, { headers }),
    (error) => error instanceof kind && error.error.error.details.error_code === code,
  );
  assert.ok(performance.now() - started < 400, "a refusal must not be retried");
}
console.log("npm @anthropic-ai/sdk works");
