// npm @anthropic-ai/sdk against the demo: answers, streams, errors, which key went out, and what it cost.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const card = JSON.parse(process.argv[2]);
const messages = [{ role: "user", content: "Name three rivers." }];
const client = new Anthropic({ baseURL: card.url, apiKey: card.tokens.northwind });

const arrived = async () =>
  (await (await fetch(`${card.sandbox_url}/sandbox/requests?limit=1`)).json()).requests[0];

const began = new Date(Date.now() - 60_000).toISOString();

/** The settled usage row of an answer, by Keyward's own API, with its cost in nanodollars. */
async function rowOf(response) {
  const id = response.headers.get("x-keyward-request-id");
  const url = `${card.url}/api/v1/usage?${new URLSearchParams({ from: began, limit: "1000" })}`;
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const answer = await fetch(url, { headers: { authorization: `Bearer ${card.tokens.northwind}` } });
    assert.equal(answer.status, 200);
    const row = (await answer.json()).rows.find((row) => row.request_id === id);
    if (row && row.state !== "pending") {
      const [dollars, rest] = row.cost_usd.split(".");
      return { ...row, cost: Number(dollars + rest.padEnd(9, "0")) };
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`no settled row for ${id}`);
}

const { data, response } = await client.messages
  .create({ model: "claude-haiku-4-5", max_tokens: 64, messages })
  .withResponse();
assert.equal(data.type, "message");
assert.equal(response.headers.get("x-keyward-usage-mode"), "byok");
const own = (await arrived()).credential_sha256;
const row = await rowOf(response);
assert.deepEqual([row.state, row.key_name, row.usage_mode], ["final", "production", "byok"]);
// Haiku 4.5: 1 dollar per million tokens in, 5 out; a nanodollar is a billionth of one.
assert.ok(data.usage.output_tokens > 1);
assert.equal(row.cost, data.usage.input_tokens * 1_000 + data.usage.output_tokens * 5_000);

const stream = client.messages.stream({ model: "claude-opus-5-5", max_tokens: 80, messages });
let text = "";
stream.on("text", (piece) => { text += piece; });
const final = await stream.finalMessage();
assert.equal(final.content[0].text, text);
assert.equal((await arrived()).credential_sha256, own);
assert.equal((await arrived()).credential_header, "x-api-key");
// Opus 5.5: 4 dollars in, 20 out.
assert.equal((await rowOf(stream.response)).cost, final.usage.input_tokens * 4_000 + final.usage.output_tokens * 20_000);

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
