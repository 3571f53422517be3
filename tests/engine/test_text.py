"""Tokens to text while they come, chats to prompts within limits, and `la.LLM` over both."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leptonai as la
from leptonai.base.errors import InvalidInput
from leptonai.engine.backend import GenRequest
from leptonai.engine.detokenize import Detokenizer
from leptonai.engine.local import LocalBackend
from leptonai.engine.params import Grammar, SamplingParams
from leptonai.engine.template import ChatTemplate
from leptonai.engine.tokenizer import load_tokenizer

from .models import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=40),
    st.lists(st.text("ab <é", min_size=1, max_size=4), max_size=3),
    st.booleans(),
    st.integers(1, 5),
)
def test_pieces_make_the_text_up_to_the_first_stop(tokenizer, text, stops, include, size):
    tokens = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, SamplingParams(stop=stops, include_stop_str_in_output=include))
    pieces, stop = [], None
    for begin in range(0, max(len(tokens), 1), size):
        piece, stop = detokenizer.push(tokens[begin : begin + size], finished=begin + size >= len(tokens))
        assert "\ufffd" not in piece or "\ufffd" in text
        pieces.append(piece)
        if stop is not None:
            break
    # Tokens come one by one, so the stop that is whole first ends it; of several that end together the one that began first.
    ends = [(place + len(s), place, s) for s in stops if (place := text.find(s)) >= 0]
    if not ends:
        assert (stop, "".join(pieces)) == (None, text)
    else:
        first = min(end for end, _, _ in ends)
        place, found = min((place, s) for end, place, s in ends if end == first)
        assert stop == found
        assert "".join(pieces) == text[: place + len(found) * include]


def test_half_a_character_and_half_a_stop_are_held_back(tokenizer):
    detokenizer = Detokenizer(tokenizer, SamplingParams(stop=["END"]))
    e, acute = "é".encode()
    assert detokenizer.push([e])[0] == ""
    assert detokenizer.push([acute])[0] == "é"
    assert detokenizer.push(list(b"xEN"))[0] == "x"
    assert detokenizer.push(list(b"O"))[0] == "ENO"
    assert detokenizer.push(list(b"E"), finished=True)[0] == "E"


def test_a_template_writes_a_chat():
    source = "{% for m in messages %}{{ m.role ~ ': ' ~ m['content']|trim }}{% if not loop.last %}, {% endif %}{% endfor %}{{ tools|tojson(indent=1) if tools }}{{ '<' ~ bos ~ '>' }}"
    template = ChatTemplate(source, {"bos": "s"})
    chat = [{"role": "user", "content": " hi "}, {"role": "a", "content": "b"}]
    assert template.render(chat) == "user: hi, a: b<s>"
    assert template.render(chat[:1], tools=[{"é": 1}]) == 'user: hi[\n {\n  "é": 1\n }\n]<s>'


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'A' * 10000000000 }}",
        "{{ 10 ** 10000000 }}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}",
        "{{ ('a' * 1000000) | replace('a', 'a' * 1000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{% for x in",
    ],
)
def test_a_hostile_template_gets_nothing_and_takes_little(source):
    begin = time.process_time()
    with pytest.raises(InvalidInput):
        ChatTemplate(source).render([])
    assert time.process_time() - begin < 10


@pytest.fixture(scope="module")
def llm(tiny):
    return la.LLM(tiny("llama"), kv_cache_bytes=16 << 20)


def test_texts_chats_and_tokens_are_prompts(llm):
    params = la.SamplingParams(temperature=0, max_tokens=12)
    text, tokens = llm.generate(["the red", list(b"the red")], params)
    assert text.token_ids == tokens.token_ids and len(text.token_ids) == 12
    assert text.text == tokens.text == llm.tokenizer.decode(text.token_ids)
    assert text.finish_reason == "length"
    chat = [{"role": "user", "content": "the red"}]
    assert llm.chat(chat, params)[0].prompt_token_ids == list(b"<user>the red\n<assistant>")
    assert llm.generate([chat], params)[0].token_ids == llm.chat(chat, params)[0].token_ids
    assert "".join(piece.text for piece in llm.stream("the red", params)) == text.text
    for wrong in ([[]], [[True]], [["a"]], [{"role": 1}, "x"]):
        with pytest.raises(InvalidInput):
            llm.generate(wrong, params)


def test_n_stop_and_logprobs(llm):
    output = llm.generate(
        "the red", la.SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=40, stop=["e"], logprobs=1)
    )[0]
    assert len({tuple(choice.token_ids) for choice in output.outputs}) > 1
    for choice in output.outputs:
        assert len(choice.logprobs) == len(choice.token_ids)
        if choice.finish_reason == "stop":
            assert choice.stop_reason == "e" and "e" not in choice.text
    assert any(choice.finish_reason == "stop" for choice in output.outputs)
    assert llm.stats().kv_used == 0


def test_leaving_a_stream_or_failing_leaves_nothing_behind(llm):
    for _ in llm.stream("the red", la.SamplingParams(max_tokens=100)):
        break
    with pytest.raises(InvalidInput):
        llm.generate(["fine", [1] * 600], la.SamplingParams(max_tokens=5))
    assert not llm.engine.has_unfinished() and llm.stats().kv_used == 0


def test_structured_output(llm):
    pytest.importorskip("llguidance")
    pytest.importorskip("leptonai.engine.grammar")
    params = la.SamplingParams(
        temperature=1.0, seed=1, max_tokens=30, grammar=Grammar(kind="regex", value="[0-9]{3}-[a-c]{2}")
    )
    text = llm.generate("the red", params)[0].text
    assert len(text) == 6 and text[3] == "-" and text[:3].isdigit() and set(text[4:]) <= set("abc")


def test_the_engine_in_a_thread_streams_and_aborts(llm):
    async def run():
        backend = LocalBackend(llm.engine)
        try:

            async def tokens(name, count):
                request = GenRequest(
                    id=name,
                    prompt_token_ids=list(b"the red"),
                    params=SamplingParams(temperature=0, max_tokens=count, ignore_eos=True),
                )
                return [token async for delta in backend.submit(request) for token in delta.token_ids]

            three = await asyncio.gather(*(tokens(str(i), 20) for i in range(3)))
            assert three[0] == three[1] == three[2] and len(three[0]) == 20
            long = backend.submit(
                GenRequest(id="long", prompt_token_ids=[65], params=SamplingParams(max_tokens=500, ignore_eos=True))
            )
            await anext(long)
            await long.aclose()
            assert await backend.call(lambda: llm.engine.has_unfinished()) is False
            with pytest.raises(InvalidInput):
                await anext(backend.submit(GenRequest(id="bad", prompt_token_ids=[])))
        finally:
            backend.close()

    asyncio.run(run())
