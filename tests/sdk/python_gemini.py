"""PyPI `google-genai` against the demo: answers, streams, errors, and which key went out."""

from google import genai
from google.genai import errors, types

from common import arrived, card, expect as expected, row_of

MODEL = "gemini-3.8-flash"
SAY = "Name three rivers."


def expect(code, call, error=errors.ClientError):
    return expected(error, code, call, lambda caught: caught.details["error"]["details"][0]["reason"])


def client_of(token, headers=None, version=None):
    options = types.HttpOptions(base_url=card["url"], headers=headers or {}, api_version=version)
    return genai.Client(api_key=token, http_options=options)


client = client_of(card["tokens"]["globex"])
config = types.GenerateContentConfig(max_output_tokens=64)

# A plain answer on the shared key: the row costs what the price list says.
answer = client.models.generate_content(model=MODEL, contents=SAY, config=config)
assert answer.text and answer.candidates[0].finish_reason
seen = arrived()
assert seen["credential_header"] == "x-goog-api-key" and seen["model"] == MODEL
headers = answer.sdk_http_response.headers
assert headers["x-keyward-usage-mode"] == "managed" and headers["x-keyward-key"] == "shared-google@1"
row = row_of(headers["x-keyward-request-id"])
used = answer.usage_metadata
assert row["provider"] == "google" and row["dialect"] == "gemini" and row["state"] == "final"
# Gemini 3.8 Flash: 0.75 dollars per million tokens in, 3.75 out.
assert row["cost"] == used.prompt_token_count * 750 + used.candidates_token_count * 3_750, dict(row)

# A stream, and the other version of the path.
for version in ("v1", "v1beta"):
    streaming = client_of(card["tokens"]["globex"], version=version)
    chunks = list(streaming.models.generate_content_stream(model=MODEL, contents=SAY, config=config))
    assert "".join(chunk.text or "" for chunk in chunks) == answer.text and len(chunks) > 2
    assert arrived()["path"] == f"/{version}/models/{MODEL}:streamGenerateContent"
    row = row_of(chunks[0].sdk_http_response.headers["x-keyward-request-id"])
    assert row["state"] == "final" and row["output_tokens"] == used.candidates_token_count, dict(row)

assert client.models.count_tokens(model=MODEL, contents=SAY).total_tokens > 0
assert any(model.name == f"models/{MODEL}" for model in client.models.list())
assert client.models.get(model=MODEL).name == f"models/{MODEL}"

# Refusals are the SDK's own exceptions with Keyward's code.
create = lambda who: who.models.generate_content(model=MODEL, contents=SAY, config=config)
north, service = card["tokens"]["northwind"], card["service_token"]
expect("keyward_token_invalid", lambda: create(client_of("kwt_nonsense")))
expect("keyward_key_not_found", lambda: create(client_of(north, {"x-keyward-key": "no"})))
expect("keyward_provider_mismatch", lambda: create(client_of(north, {"x-keyward-key": "production"})))
expect("keyward_gate_closed", lambda: create(client_of(north, {"x-keyward-feature": "community-manager"})))
expect("keyward_tenant_not_found", lambda: create(client_of(service, {"x-keyward-tenant": "nobody"})))

# What the provider refuses, it refuses in its own words.
try:
    client.models.generate_content(model="gemini-none", contents=SAY)
    raise AssertionError("an unknown model was served")
except errors.ClientError as caught:
    assert caught.code == 404 and caught.status == "NOT_FOUND"

print("PyPI google-genai", genai.__version__, "works")
