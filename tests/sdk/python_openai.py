"""PyPI `openai` against the demo: answers, streams, embeddings, errors, and which key went out."""

import openai

from common import arrived, card, expect as expected, row_of

SAY = [{"role": "user", "content": "Name three rivers."}]
MODEL = "gpt-5.4-nano"


def expect(error, code, call):
    return expected(error, code, call, lambda caught: caught.code)


client = openai.OpenAI(base_url=card["url"] + "/v1", api_key=card["tokens"]["northwind"])

# A plain chat: the tenant's key goes out as Bearer, and the row costs what the price list says.
raw = client.chat.completions.with_raw_response.create(model=MODEL, max_completion_tokens=64, messages=SAY)
chat = raw.parse()
assert chat.choices[0].message.content and chat.object == "chat.completion"
seen = arrived()
assert seen["credential_header"] == "authorization" and seen["path"] == "/v1/chat/completions"
own = seen["credential_sha256"]
assert raw.headers["x-keyward-key"] == "openai-search@1" and raw.headers["x-keyward-usage-mode"] == "byok"
row = row_of(raw.headers["x-keyward-request-id"])
assert row["state"] == "final" and row["provider"] == "openai" and row["dialect"] == "openai"
# GPT-5.4 Nano: 0.20 dollars per million tokens in, 1.25 out.
assert row["cost"] == chat.usage.prompt_tokens * 200 + chat.usage.completion_tokens * 1_250, dict(row)

# A stream that did not ask for its usage does not get it, and is metered exactly all the same.
raw = client.chat.completions.with_raw_response.create(
    model=MODEL, max_completion_tokens=64, messages=SAY, stream=True
)
chunks = list(raw.parse())
assert all(chunk.choices for chunk in chunks) and all(chunk.usage is None for chunk in chunks)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == chat.choices[0].message.content
row = row_of(raw.headers["x-keyward-request-id"])
assert row["state"] == "final" and row["output_tokens"] == chat.usage.completion_tokens, dict(row)
assert arrived()["credential_sha256"] == own

# One that did ask gets it.
chunks = list(
    client.chat.completions.create(
        model=MODEL, max_completion_tokens=64, messages=SAY, stream=True, stream_options={"include_usage": True}
    )
)
assert chunks[-1].usage.completion_tokens == chat.usage.completion_tokens and not chunks[-1].choices

# Responses, plain and through the SDK's own accumulator.
raw = client.responses.with_raw_response.create(model="gpt-6-luna", max_output_tokens=64, input="Name three rivers.")
response = raw.parse()
assert response.output_text and response.usage.output_tokens > 1
row = row_of(raw.headers["x-keyward-request-id"])
assert row["cost"] == response.usage.input_tokens * 100 + response.usage.output_tokens * 500, dict(row)
with client.responses.stream(model="gpt-6-luna", max_output_tokens=64, input="Name three rivers.") as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
assert kinds[0] == "response.created" and "response.output_text.delta" in kinds
assert final.output_text == response.output_text

# Embeddings, and what there is.
vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
assert len(vectors.data) == 2 and len(vectors.data[0].embedding) == 8
assert any(model.id == MODEL for model in client.models.list())
assert client.models.retrieve(MODEL).id == MODEL

# Azure is the same dialect on another key, by name or by provider.
for headers in ({"x-keyward-provider": "azure"}, {"x-keyward-key": "azure-eu"}):
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-6.1-sol", max_completion_tokens=8, messages=SAY, extra_headers=headers
    )
    assert raw.headers["x-keyward-key"] == "azure-eu@1"
    seen = arrived()
    assert seen["credential_header"] == "api-key" and seen["path"] == "/openai/v1/chat/completions"
    assert seen["credential_sha256"] != own
try:
    client.chat.completions.create(model="my-gpt", messages=SAY, extra_headers={"x-keyward-provider": "azure"})
    raise AssertionError("an unknown deployment was served")
except openai.NotFoundError as caught:
    assert caught.code == "DeploymentNotFound"


# Refusals are the SDK's own exceptions, with Keyward's code, and are not retried.
def create(who=client, **more):
    return who.chat.completions.create(**{"model": MODEL, "max_completion_tokens": 8, "messages": SAY, **more})


stranger = openai.OpenAI(base_url=card["url"] + "/v1", api_key="kwt_nonsense")
service = openai.OpenAI(base_url=card["url"] + "/v1", api_key=card["service_token"])
named = lambda name, value: {"extra_headers": {name: value}}
expect(openai.AuthenticationError, "keyward_token_invalid", lambda: create(stranger))
expect(openai.NotFoundError, "keyward_key_not_found", lambda: create(**named("x-keyward-key", "no")))
expect(openai.BadRequestError, "keyward_feature_unknown", lambda: create(**named("x-keyward-feature", "no")))
expect(openai.BadRequestError, "keyward_provider_mismatch", lambda: create(**named("x-keyward-key", "production")))
expect(openai.BadRequestError, "keyward_provider_mismatch", lambda: create(**named("x-keyward-provider", "google")))
expect(openai.PermissionDeniedError, "keyward_gate_closed", lambda: create(**named("x-keyward-feature", "community-manager")))
expect(openai.PermissionDeniedError, "keyward_gate_closed", lambda: create(service, **named("x-keyward-tenant", "hooli")))
expect(openai.NotFoundError, "keyward_tenant_not_found", lambda: create(service, **named("x-keyward-tenant", "nobody")))
assert create(service, **named("x-keyward-tenant", "globex")).object == "chat.completion"

print("PyPI openai", openai.__version__, "works")
