"""PyPI `anthropic` against the demo: answers, streams, errors, and proof of which key went out."""

import anthropic

from common import arrived, card, expect as expected, row_of

SAY = [{"role": "user", "content": "Name three rivers."}]


def expect(error, code, call):
    return expected(error, code, call, lambda caught: caught.error_code)


client = anthropic.Anthropic(base_url=card["url"], api_key=card["tokens"]["northwind"])

# A plain message: the tenant's key goes out, and the row costs what the price list says.
raw = client.messages.with_raw_response.create(model="claude-haiku-4-5", max_tokens=64, messages=SAY)
message = raw.parse()
assert message.content[0].text and message.type == "message"
seen = arrived()
assert seen["credential_header"] == "x-api-key"
assert "authorization" not in seen["header_names"]
own = seen["credential_sha256"]
assert raw.headers["x-keyward-key"] == "production@1" and raw.headers["x-keyward-usage-mode"] == "byok"
row = row_of(raw.headers["x-keyward-request-id"])
assert row["state"] == "final" and row["key_name"] == "production"
# Haiku 4.5: 1 dollar per million tokens in, 5 out; a nanodollar is a billionth of one.
assert row["cost"] == message.usage.input_tokens * 1_000 + message.usage.output_tokens * 5_000, dict(row)

# A named key is another credential.
raw = client.messages.with_raw_response.create(
    model="claude-haiku-4-5", max_tokens=8, messages=SAY, extra_headers={"x-keyward-key": "batch-eval"}
)
assert raw.headers["x-keyward-key"] == "batch-eval@1"
assert arrived()["credential_sha256"] != own

# A stream, through the SDK's own accumulator.
with client.messages.stream(model="claude-opus-5-5", max_tokens=80, messages=SAY) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
    request_id = stream.response.headers["x-keyward-request-id"]
assert text == final.content[0].text and final.usage.output_tokens > 1
assert arrived()["credential_sha256"] == own
row = row_of(request_id)
# Opus 5.5: 4 dollars in, 20 out.
assert row["cost"] == final.usage.input_tokens * 4_000 + final.usage.output_tokens * 20_000, dict(row)

# Counting and listing.
assert client.messages.count_tokens(model="claude-haiku-4-5", messages=SAY).input_tokens > 0
assert any(model.id == "claude-haiku-4-5" for model in client.models.list())
assert client.models.retrieve("claude-opus-5").id == "claude-opus-5"


# Refusals are the SDK's own exceptions, with Keyward's code, and are not retried.
def create(who=client, **more):
    arguments = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": SAY, **more}
    return who.messages.create(**arguments)


stranger = anthropic.Anthropic(base_url=card["url"], api_key="kwt_nonsense")
service = anthropic.Anthropic(base_url=card["url"], api_key=card["service_token"])
expect(anthropic.AuthenticationError, "keyward_token_invalid", lambda: create(stranger))
expect(anthropic.NotFoundError, "keyward_key_not_found", lambda: create(extra_headers={"x-keyward-key": "no"}))
expect(anthropic.BadRequestError, "keyward_feature_unknown", lambda: create(extra_headers={"x-keyward-feature": "no"}))
closed = expect(
    anthropic.PermissionDeniedError,
    "keyward_gate_closed",
    lambda: create(extra_headers={"x-keyward-feature": "community-manager"}),
)
assert "switched off" in closed.message
expect(anthropic.BadRequestError, "keyward_invalid_request", lambda: create(service))
tenant = lambda slug: {"extra_headers": {"x-keyward-tenant": slug}}
expect(anthropic.NotFoundError, "keyward_tenant_not_found", lambda: create(service, **tenant("nobody")))
expect(anthropic.PaymentRequiredError, "keyward_paused", lambda: create(service, **tenant("initech")))
expect(anthropic.PermissionDeniedError, "keyward_key_rejected", lambda: create(service, **tenant("hooli")))
assert create(service, **tenant("globex")).type == "message"

# What the provider refuses, it refuses in its own words.
try:
    create(model="claude-none")
    raise AssertionError("an unknown model was served")
except anthropic.NotFoundError as caught:
    assert caught.type == "not_found_error" and caught.error_code is None

print("PyPI anthropic", anthropic.__version__, "works")
