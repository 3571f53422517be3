"""Keys: who may ask, and that no key finds what another one's prompts left in the cache."""

import openai
import pytest

from .conftest import serving

PROMPT = "The quick brown fox jumps over the lazy dog. " * 4


@pytest.fixture(scope="module")
def keyed(model):
    with serving(
        model, "--name", "byte", "--api-key", "first-key", "--api-key", "second-key", key="first-key"
    ) as server:
        yield server


def cached(server, key: str) -> int:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        usage = client.completions.create(model="byte", prompt=PROMPT, max_tokens=2).usage
        return usage.prompt_tokens_details.cached_tokens


def test_without_a_key_nothing_is_told_but_health(keyed):
    for key in ("wrong", "first-ke", "first-key-2"):
        answer = keyed.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "first-key" not in answer.text
    assert keyed.http.get("/metrics", headers={"authorization": ""}).status_code == 401
    assert keyed.http.get("/health", headers={"authorization": ""}).status_code == 200


def test_keys_do_not_share_prefixes(keyed):
    assert cached(keyed, "first-key") == 0
    assert cached(keyed, "first-key") > 100
    assert cached(keyed, "second-key") == 0


def test_adapters_are_not_loaded_where_no_folder_was_named(keyed):
    answer = keyed.http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/etc"})
    assert answer.status_code == 403


def test_bodies_are_bounded(keyed):
    answer = keyed.http.post("/v1/completions", content=b" " * (17 << 20), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    for body in (b"", b"{", b"[]", b'{"prompt": ' + b"[" * 100_000, b'{"prompt": "x", "max_tokens": 1e999}', b"\xff"):
        assert keyed.http.post("/v1/completions", content=body).status_code == 400
    assert keyed.http.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
    assert keyed.http.get("/v1/completions").status_code == 405
