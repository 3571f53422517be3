"""Tokens are drawn from exactly the distribution that the parameters describe."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.engine import sampler, spec
from leptonai.engine.backend import GenRequest
from leptonai.engine.ops import ref
from leptonai.engine.params import SamplingParams
from leptonai.engine.sampler import Pick, draw, sample, uniform
from leptonai.engine.sequence import Sequence


def expected(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution, written down as slowly as it is defined."""
    p = (logits.double() / params.temperature).softmax(0)
    order = p.argsort(descending=True, stable=True)
    kept = []
    for rank, token in enumerate(order.tolist()):
        if p[token] >= params.min_p * p[order[0]] and (params.top_k <= 0 or rank < params.top_k):
            kept.append(token)
    total, mass, nucleus = sum(p[token].item() for token in kept), 0.0, []
    for token in kept:
        if mass >= params.top_p * total and params.top_p < 1:
            break
        nucleus.append(token)
        mass += p[token].item()
    q = torch.zeros_like(p)
    q[nucleus] = p[nucleus]
    return q / q.sum()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([3, 200, 3000]), st.floats(0.3, 3), st.sampled_from([0, 1, 5, 150, 2000]),
    st.sampled_from([1.0, 0.95, 0.5, 0.01]), st.sampled_from([0.0, 0.02, 0.5]),
)  # fmt: skip
def test_a_number_falls_where_the_distribution_says(seed, vocab, temperature, top_k, top_p, min_p):
    logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    params = [SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)] * 4
    numbers = [uniform(seed, place) for place in range(4)]
    for row, token, number in zip(logits, draw(ref, logits, params, numbers), numbers, strict=True):
        q = expected(row, params[0])
        order = q.argsort(descending=True, stable=True)
        below = q[order].cumsum(0)
        place = order.tolist().index(token)
        assert q[token] > 0
        assert below[place].item() >= number - 1e-5 and below[place].item() - q[token].item() <= number + 1e-5


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(4000, 1)
    tokens = draw(ref, logits, [SamplingParams()] * 4000, [uniform(7, place) for place in range(4000)])
    found = torch.bincount(torch.tensor(tokens), minlength=4) / 4000
    torch.testing.assert_close(found, logits[0].softmax(0), atol=0.03, rtol=0)


def test_uniform_numbers_are_uniform():
    numbers = torch.tensor([uniform(seed, place) for seed in range(50) for place in range(100)], dtype=torch.float64)
    assert numbers.min() > 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02 and abs(numbers.var() - 1 / 12) < 0.005


def rows(params, logits, tokens=(1, 2), generated=(3, 3)):
    request = GenRequest(id="x", prompt_token_ids=list(tokens), params=params)
    sequence = Sequence.of(request, 100, 0)
    sequence.tokens += generated
    (choice,) = sample(ref, logits.clone().unsqueeze(0), [Pick(sequence, len(sequence.tokens))], [0])
    return choice


def test_penalties_are_those_of_openai_and_vllm():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 1.9])
    plain = SamplingParams(temperature=0)
    assert rows(plain, logits).token == 3
    assert rows(plain.replace(frequency_penalty=0.06), logits).token == 4  # twice 0.06
    assert rows(plain.replace(frequency_penalty=0.04), logits).token == 3
    assert rows(plain.replace(presence_penalty=0.11), logits).token == 4
    assert rows(plain.replace(repetition_penalty=1.1), logits).token == 4
    row = logits.clone()
    sequence = Sequence.of(GenRequest(id="x", prompt_token_ids=[1, 2]), 100, 0)
    sampler.penalize(row, sequence, SamplingParams(repetition_penalty=2.0))
    assert row.tolist() == pytest.approx([0.0, 0.5, -2.0, 2.0, 1.9])


def test_logprobs_are_of_the_model_not_of_what_was_asked_of_it():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 1.9])
    choice = rows(SamplingParams(temperature=0, logit_bias={0: 50.0}, logprobs=2), logits)
    assert choice.token == 0
    wanted = logits.log_softmax(0)
    assert choice.logprobs.logprob == pytest.approx(wanted[0].item(), abs=1e-5)
    assert [token for token, _ in choice.logprobs.top] == [3, 4]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_cannot_be_chosen_is_said(bad, temperature):
    assert rows(SamplingParams(temperature=temperature), torch.full((5,), bad)).error


@pytest.mark.parametrize("wrong", [{"top_p": 0}, {"temperature": -1}, {"temperature": math.nan}, {"n": 0}, {"max_tokens": 0}, {"stop": [""]},
                                   {"top_k": 1.5}, {"min_tokens": 5, "max_tokens": 4}, {"logprobs": 21}, {"logit_bias": {1: 101.0}}], ids=str)  # fmt: skip
def test_parameters_are_checked(wrong):
    with pytest.raises(InvalidInput):
        SamplingParams(**wrong)


def test_n_choices_have_seeds_of_their_own():
    assert [params.seed for params in SamplingParams(n=3, seed=5).split()] == [5, 6, 7]


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),
        ([1, 2, 3], []),
        ([5, 1, 2, 3, 6, 1, 2, 7, 5, 1, 2], [3, 6, 1]),
        ([4, 4, 4, 4], [4]),
        ([], []),
        ([1], []),
    ],
)
def test_drafts_are_what_followed_before(tokens, draft):
    assert spec.propose(tokens, 3) == draft
