"""Grammars are compiled within bounds, and what cannot be is refused: never a crash, never a cache that grows."""

import json

import pytest
import torch

from leptonai.base.errors import InvalidInput
from leptonai.engine.grammar import GrammarCompiler
from leptonai.engine.params import Grammar


@pytest.fixture(scope="module")
def compiler(model):
    return GrammarCompiler((model / "tokenizer.json").read_text(), 272, [258], cache_size=32)


def allowed(matcher) -> set[int]:
    mask = torch.zeros(9, dtype=torch.int32)
    matcher.fill(mask)
    return {token for token in range(272) if mask[token // 32].item() >> (token % 32) & 1}


def test_masks_follow_the_text(compiler):
    matcher = compiler(Grammar(kind="regex", value="ab?"))
    a, b = compiler_ids("ab")
    assert allowed(matcher) == {a}
    matcher.accept(a)
    assert allowed(matcher) == {b, 258}
    matcher.accept(b)
    assert allowed(matcher) == {258}


def compiler_ids(text: str) -> list[int]:
    return [ord(char) - ord("!") for char in text]


def test_two_sequences_of_one_grammar_do_not_share_their_place(compiler):
    grammar = Grammar(kind="choice", value='["ab", "cd"]')
    first, second = compiler(grammar), compiler(grammar)
    first.accept(compiler_ids("a")[0])
    assert allowed(first) == set(compiler_ids("b"))
    assert allowed(second) == set(compiler_ids("ac"))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(kind="regex", value="(a+"),
        Grammar(kind="regex", value=r"(?=x)y\1"),
        Grammar(kind="json_schema", value="{"),
        Grammar(kind="json_schema", value='{"type": "nonsense"}'),
        Grammar(kind="json_schema", value='{"$ref": "#/nowhere"}'),
        Grammar(kind="json_schema", value='{"type": "string", "pattern": "("}'),
        Grammar(kind="json_schema", value='{"a":' * 5000 + "1" + "}" * 5000),
        Grammar(kind="json_schema", value="[1]"),
        Grammar(kind="json_schema", value=json.dumps({"enum": ["x" * 300_000]})),
        Grammar(kind="choice", value="[]"),
        Grammar(kind="lark", value="start: nothing"),
        Grammar(kind="gbnf", value="root ::= ("),
    ],
)
def test_what_cannot_be_compiled_is_refused(compiler, grammar):
    with pytest.raises(InvalidInput):
        matcher = compiler(grammar)
        for _ in range(3):
            allowed(matcher)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)*x", "([a-z]+)*[0-9]{1,9}"])
def test_nested_quantifiers_cost_nothing_special(compiler, pattern):
    matcher = compiler(Grammar(kind="regex", value=pattern))
    for token in compiler_ids("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"):
        assert token in allowed(matcher)
        matcher.accept(token)


def test_a_pattern_beyond_the_limits_ends_its_request_not_the_process(compiler):
    matcher = compiler(Grammar(kind="regex", value="((a{1,1000}){1,1000}){1,1000}"))
    with pytest.raises(InvalidInput):
        for _ in range(50):
            allowed(matcher)
            matcher.accept(compiler_ids("a")[0])


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_many_schemas_leave_a_bounded_cache(compiler, count):
    for i in range(count):
        compiler.compile(
            Grammar(
                kind="json_schema",
                value=json.dumps({"type": "object", "properties": {f"field{i}": {"type": "integer"}}}),
            )
        )
    assert compiler.cached <= 32
