"""Greedy output equals transformers' for every family, whatever the engine does to get it."""

import json
from pathlib import Path

import pytest
import torch

from leptonai.base.errors import Conflict, InvalidInput, NotFound, TooMany
from leptonai.engine.backend import GenRequest
from leptonai.engine.engine import Engine, EngineConfig
from leptonai.engine.models import load_model
from leptonai.engine.ops import native
from leptonai.engine.params import SamplingParams

from .models import TEXT, generate, hf_greedy

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
PROMPTS = [list(TEXT[a:b].encode()) for a, b in [(0, 5), (10, 90), (100, 137), (0, 70), (0, 101), (30, 31)]]
FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
OPS = [
    "ref",
    pytest.param("cpu", marks=pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")),
]


@pytest.fixture(scope="module")
def expected(tiny):
    found = {}

    def of(family):
        if family not in found:
            found[family] = [hf_greedy(tiny(family), prompt, 40) for prompt in PROMPTS]
        return found[family]

    return of


def make(folder, ops=None, blocks=None, **config) -> Engine:
    runner = load_model(folder, ops=ops, kv_cache_bytes=32 << 20)
    if blocks:
        runner.blocks = blocks
    return Engine(runner, EngineConfig(**config))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_that_of_transformers(tiny, expected, family, ops):
    assert generate(make(tiny(family), ops), PROMPTS, GREEDY) == expected(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "config",
    [
        {"max_num_batched_tokens": 7},
        {"max_num_seqs": 1},
        {"enable_prefix_caching": False},
        {"num_speculative_tokens": 5},
        {"num_speculative_tokens": 3, "max_num_batched_tokens": 5, "max_num_seqs": 3},
    ],
    ids=str,
)
def test_and_stays_so_whatever_the_schedule(tiny, expected, family, config):
    assert generate(make(tiny(family), **config), PROMPTS, GREEDY) == expected(family)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("speculation", [0, 4])
def test_and_when_blocks_run_out(tiny, expected, family, speculation):
    engine = make(tiny(family), blocks=9, num_speculative_tokens=speculation)
    wanted = expected(family)
    # Eight that begin with a block each and end with two: nine blocks let five begin.
    assert generate(engine, [PROMPTS[0], PROMPTS[5]] * 4, GREEDY) == [wanted[0], wanted[5]] * 4
    assert engine.stats().preemptions > 0
    assert generate(engine, PROMPTS, GREEDY) == wanted
    assert engine.stats().kv_used == 0


def test_prefixes_are_read_once(tiny, expected):
    engine = make(tiny("qwen3"))
    shared = list(TEXT[:70].encode())
    first = generate(engine, [shared], GREEDY)
    assert engine.stats().prefix_hits == 0
    assert generate(engine, [shared], GREEDY) == first == [expected("qwen3")[3]]
    assert engine.stats().prefix_hits == 64  # two whole blocks


def test_no_tenant_finds_the_prefix_of_another(tiny):
    engine = make(tiny("llama"))
    generate(engine, [PROMPTS[4]], GREEDY, tenant="a")
    generate(engine, [PROMPTS[4]], GREEDY, tenant="b")
    assert engine.stats().prefix_hits == 0
    generate(engine, [PROMPTS[4]], GREEDY, tenant="a")
    assert engine.stats().prefix_hits > 0


def test_speculation_is_right_often_where_the_text_repeats(tiny):
    # The model goes on with a text that it was given once already, not quite by heart.
    engine = make(tiny("llama"), num_speculative_tokens=6)
    generate(engine, [list((TEXT * 2)[:300].encode())], GREEDY)
    stats = engine.stats()
    assert stats.accepted > stats.drafted / 10 > 0
    assert stats.steps < 0.8 * stats.generated_tokens


def test_sampled_tokens_depend_on_the_seed_only(tiny):
    params = [SamplingParams(temperature=1.2, seed=seed, max_tokens=30, ignore_eos=True, top_p=p, top_k=k) for seed, p, k in
              [(1, 1, 0), (2, 0.9, 0), (3, 1, 5), (4, 0.8, 40), (5, 1, 0), (1, 1, 0)]]  # fmt: skip
    prompts = [PROMPTS[0]] * 6
    together = generate(make(tiny("qwen2")), prompts, params)
    assert together[0] == together[5] != together[4]
    for config in ({"max_num_seqs": 1}, {"num_speculative_tokens": 4}, {"blocks": 5, "max_num_batched_tokens": 3}):
        assert generate(make(tiny("qwen2"), **config), prompts, params) == together, config


def test_logprobs_are_those_of_transformers(tiny):
    import transformers as hf

    model = hf.AutoModelForCausalLM.from_pretrained(tiny("qwen3"), dtype=torch.float32)
    prompt = PROMPTS[2]
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    engine = make(tiny("qwen3"), max_num_batched_tokens=10)
    params = SamplingParams(temperature=0.7, max_tokens=1, logprobs=3, prompt_logprobs=2)
    engine.add_request(GenRequest(id="a", prompt_token_ids=prompt, params=params))
    deltas = []
    while engine.has_unfinished():
        deltas += [delta for _, delta in engine.step()]
    (delta,) = deltas
    assert delta.prompt_logprobs[0] is None and len(delta.prompt_logprobs) == len(prompt)
    for place, found in enumerate(delta.prompt_logprobs[1:]):
        assert found.token_id == prompt[place + 1]
        assert found.logprob == pytest.approx(wanted[place, found.token_id].item(), abs=1e-3)
        assert [token for token, _ in found.top] == wanted[place].topk(2).indices.tolist()
    (found,) = delta.logprobs
    assert [value for _, value in found.top] == pytest.approx(wanted[-1].topk(3).values.tolist(), abs=1e-3)
    assert found.logprob == pytest.approx(wanted[-1, delta.token_ids[0]].item(), abs=1e-3)


def test_embeddings_are_states_of_the_last_token(tiny):
    import transformers as hf

    model = hf.AutoModelForCausalLM.from_pretrained(tiny("llama"), dtype=torch.float32)
    with torch.inference_mode():
        state = model.model(torch.tensor([PROMPTS[1]])).last_hidden_state[0, -1]
    engine = make(tiny("llama"), max_num_batched_tokens=16)
    engine.add_request(GenRequest(id="e", prompt_token_ids=PROMPTS[1], task="embed"))
    deltas = []
    while engine.has_unfinished():
        deltas += engine.step()
    assert len(deltas) == 1 and deltas[0][1].finish_reason == "stop"
    torch.testing.assert_close(torch.tensor(deltas[0][1].embedding), state / state.norm(), atol=1e-3, rtol=0)


def test_an_abort_frees_at_once(tiny):
    engine = make(tiny("llama"))
    for name in "ab":
        engine.add_request(GenRequest(id=name, prompt_token_ids=PROMPTS[1], params=GREEDY))
    engine.step()
    held = engine.stats().kv_used
    engine.abort("a")
    engine.abort("never heard of")
    assert engine.stats().kv_used < held
    assert all(id == "b" for id, _ in engine.step())
    engine.abort("b")
    assert engine.stats().kv_used == 0 and not engine.has_unfinished()


def test_ends(tiny, expected):
    engine = make(tiny("llama"))
    known = expected("llama")[0]
    engine.add_request(
        GenRequest(id="t", prompt_token_ids=PROMPTS[0], params=GREEDY.replace(stop_token_ids=[known[7]]))
    )
    deltas = []
    while engine.has_unfinished():
        deltas += engine.step()
    place = known.index(known[7])
    assert [token for _, delta in deltas for token in delta.token_ids] == known[: place + 1]
    assert (deltas[-1][1].finish_reason, deltas[-1][1].stop_reason) == ("stop", known[7])
    long = GenRequest(id="l", prompt_token_ids=[65] * 500, params=GREEDY.replace(max_tokens=None))
    engine.add_request(long)
    deltas = []
    while engine.has_unfinished():
        deltas += engine.step()
    assert deltas[-1][1].finish_reason == "length"
    assert sum(len(delta.token_ids) for _, delta in deltas) == 12  # the model's 512


@pytest.mark.parametrize(
    "request_, error",
    [
        ({"prompt_token_ids": []}, InvalidInput),
        ({"prompt_token_ids": [1] * 512}, InvalidInput),
        ({"prompt_token_ids": [260]}, InvalidInput),
        ({"prompt_token_ids": [-1]}, InvalidInput),
        ({"prompt_token_ids": [1], "params": SamplingParams(n=2)}, InvalidInput),
        ({"prompt_token_ids": [1], "params": SamplingParams(logit_bias={300: 1.0})}, InvalidInput),
        ({"prompt_token_ids": [1], "adapter": "none"}, NotFound),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, request_, error):
    engine = make(tiny("llama"))
    with pytest.raises(error):
        engine.add_request(GenRequest(id="x", **request_))
    assert not engine.has_unfinished()


def test_ids_are_unique_and_the_queue_is_bounded(tiny):
    engine = make(tiny("llama"), max_waiting=1)
    engine.add_request(GenRequest(id="x", prompt_token_ids=[1]))
    with pytest.raises(Conflict):
        engine.add_request(GenRequest(id="x", prompt_token_ids=[1]))
    with pytest.raises(TooMany):
        engine.add_request(GenRequest(id="y", prompt_token_ids=[1]))


def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(tiny, expected, monkeypatch):
    engine = make(tiny("llama"))
    engine.add_request(GenRequest(id="x", prompt_token_ids=PROMPTS[0], params=GREEDY))
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "run", lambda rows: 1 / 0)
        ((id, delta),) = engine.step()
    assert (id, delta.finish_reason) == ("x", "error") and "division" in delta.error
    assert generate(engine, [PROMPTS[0]], GREEDY) == [expected("llama")[0]]


def test_min_tokens_and_bans(tiny, expected):
    known = expected("llama")[0]
    engine = make(tiny("llama"))
    params = GREEDY.replace(logit_bias={known[0]: -100.0})
    assert generate(engine, [PROMPTS[0]], params)[0][0] != known[0]
    params = GREEDY.replace(bad_words_token_ids=[known[3:5]])
    found = generate(engine, [PROMPTS[0]], params)[0]
    assert found[:4] == known[:4] and found[4] != known[4]
    params = GREEDY.replace(stop_token_ids=[known[0]], min_tokens=3)
    found = generate(engine, [PROMPTS[0]], params)[0]
    assert len(found) >= 3 and known[0] not in found[:3]


def test_the_public_stories_model_says_what_it_is_known_to_say():
    home = Path(__file__).parents[3] / "shared/data/models/stories260k"
    if not home.is_dir():
        pytest.skip("the stories260k checkpoint is not here")
    known = json.loads((home / "expected_greedy.json").read_text())
    for config in ({}, {"num_speculative_tokens": 4}):
        engine = make(home / "hf", **config)
        params = SamplingParams(temperature=0, max_tokens=len(known["greedy_ids"]))
        assert generate(engine, [known["prompt_ids"]] * 3, params) == [known["greedy_ids"]] * 3


def test_another_family_runs_through_transformers(tiny, tmp_path):
    folder = tiny("gpt_neox")
    wanted = [hf_greedy(folder, prompt, 40) for prompt in PROMPTS[:3]]
    assert generate(make(folder), PROMPTS[:3], GREEDY) == wanted
    engine = make(folder, num_speculative_tokens=4, max_num_batched_tokens=9, blocks=5)
    assert generate(engine, PROMPTS[:3], GREEDY) == wanted
    assert engine.runner.caches == {}
