"""The official `openai` client, unchanged, against `lep serve llm:` as a real process."""

import asyncio
import json

import openai
import pydantic
import pytest

SAY = [{"role": "user", "content": "Say something."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


def test_models(client):
    assert [model.id for model in client.models.list()] == ["byte"]
    assert client.models.retrieve("byte").owned_by == "lepton"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_chat(client):
    answer = client.chat.completions.create(model="byte", messages=SAY, max_tokens=12, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client):
    request = dict(model="byte", messages=SAY, max_tokens=40, seed=7, n=2, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**request)
    texts, usage, tokens = ["", ""], None, [0, 0]
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens == sum(tokens)
    assert texts[0] != texts[1]


def test_logprobs(client):
    answer = client.chat.completions.create(
        model="byte", messages=SAY, max_tokens=5, temperature=0, logprobs=True, top_logprobs=4
    )
    for token in answer.choices[0].logprobs.content:
        assert len(token.top_logprobs) == 4
        assert token.logprob == pytest.approx(max(other.logprob for other in token.top_logprobs))


def test_stop_strings_are_left_out(client):
    request = dict(model="byte", prompt="Hello", max_tokens=60, seed=3)
    text = client.completions.create(**request).choices[0].text
    stop = text[20:23]
    cut = client.completions.create(**request, stop=[stop]).choices[0]
    assert cut.text == text[: text.find(stop)]
    assert cut.finish_reason == "stop"


def test_logit_bias_and_penalties(client):
    biased = client.completions.create(model="byte", prompt="x", max_tokens=5, logit_bias={"66": 100}, temperature=0)
    assert len(set(biased.choices[0].text)) == 1
    punished = client.completions.create(
        model="byte",
        prompt="x",
        max_tokens=30,
        temperature=0,
        frequency_penalty=2,
        presence_penalty=2,
        extra_body={"min_p": 0.01, "top_k": 20, "repetition_penalty": 1.2},
    )
    assert punished.usage.completion_tokens <= 30


def test_completions_of_every_kind_of_prompt(client):
    texts = client.completions.create(model="byte", prompt=["one", "two"], max_tokens=4, n=2, temperature=0)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    tokens = client.completions.create(model="byte", prompt=[[78, 77, 68], [83, 86, 78]], max_tokens=4, temperature=0)
    assert [choice.text for choice in tokens.choices] == [texts.choices[0].text, texts.choices[2].text]
    echoed = client.completions.create(model="byte", prompt="one", max_tokens=0, echo=True, logprobs=1)
    assert echoed.choices[0].text == "one"
    assert echoed.choices[0].logprobs.tokens == ["o", "n", "e"]
    assert echoed.choices[0].logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in echoed.choices[0].logprobs.token_logprobs[1:])
    best = client.completions.create(model="byte", prompt="one", max_tokens=6, best_of=4, seed=1)
    assert len(best.choices) == 1


def test_json_schema_parsed_by_the_client(client):
    class Answer(pydantic.BaseModel):
        city: str = pydantic.Field(max_length=8, pattern="^[a-z]+$")
        count: int = pydantic.Field(ge=0, le=99)

    answer = client.chat.completions.parse(model="byte", messages=SAY, response_format=Answer, max_tokens=200, seed=5)
    assert isinstance(answer.choices[0].message.parsed, Answer)


@pytest.mark.parametrize(
    ("extra", "check"),
    [
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, lambda text: text[:3].isdigit() and text[3] == "-" and len(text) == 6),
        ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"guided_grammar": 'start: "a"+ "b"'}, lambda text: text.strip("a") == "b"),
        ({"guided_grammar": 'root ::= "x" [0-9] "y"'}, lambda text: text[0] == "x" and text[2] == "y"),
        (
            {"structured_outputs": {"json": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}},
            lambda text: isinstance(json.loads(text), list),
        ),
    ],
)
def test_guided_text(client, extra, check):
    answer = client.completions.create(model="byte", prompt="Q:", max_tokens=200, seed=11, extra_body=extra)
    assert check(answer.choices[0].text), answer.choices[0].text


def test_a_tool_that_must_be_called(client):
    request = dict(model="byte", messages=SAY, tools=[WEATHER, CLOCK], max_tokens=400, seed=2)
    named = client.chat.completions.create(**request, tool_choice={"type": "function", "function": {"name": "weather"}})
    (call,) = named.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert named.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert arguments["city"] in ("Rome", "Oslo")
    assert 1 <= arguments["days"] <= 7
    required = client.chat.completions.create(**request, tool_choice="required", parallel_tool_calls=False)
    assert required.choices[0].message.tool_calls[0].function.name in ("weather", "clock")
    none = client.chat.completions.create(**{**request, "max_tokens": 8}, tool_choice="none")
    assert none.choices[0].message.tool_calls is None


def test_tool_calls_stream_and_their_results_come_back(client):
    request = dict(
        model="byte", tools=[CLOCK], tool_choice="required", parallel_tool_calls=False, max_tokens=200, seed=4
    )
    calls, finish = [], None
    for chunk in client.chat.completions.create(**request, messages=SAY, stream=True):
        for choice in chunk.choices:
            calls += choice.delta.tool_calls or []
            finish = choice.finish_reason or finish
    assert (calls[0].function.name, finish) == ("clock", "tool_calls")
    turn = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": calls[0].id, "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
    }
    result = {"role": "tool", "tool_call_id": calls[0].id, "content": "12:00"}
    answer = client.chat.completions.create(model="byte", messages=[*SAY, turn, result], tools=[CLOCK], max_tokens=5)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_embeddings(client):
    both = client.embeddings.create(model="byte", input=["one", "two"])  # the client asks for base64 by itself
    plain = client.embeddings.create(model="byte", input="one", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(both.data[0].embedding, abs=1e-5)
    assert sum(value * value for value in plain.data[0].embedding) == pytest.approx(1, abs=1e-4)
    assert len(client.embeddings.create(model="byte", input="one", dimensions=16).data[0].embedding) == 16


def test_responses(client):
    first = client.responses.create(
        model="byte", input="Hello", instructions="Be brief.", max_output_tokens=8, temperature=0
    )
    assert first.usage.output_tokens <= 8
    assert first.output_text == first.output[0].content[0].text
    again = client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    second = client.responses.create(model="byte", input="And?", previous_response_id=first.id, max_output_tokens=4)
    assert second.usage.input_tokens > first.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_responses_stream(client):
    with client.responses.stream(model="byte", input="Hello", max_output_tokens=10, temperature=0) as stream:
        events = list(stream)
    kinds, final = [event.type for event in events], events[-1].response
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert "response.output_text.delta" in kinds
    whole = client.responses.create(model="byte", input="Hello", max_output_tokens=10, temperature=0)
    assert final.output_text == whole.output_text


def test_responses_with_tools_and_schema(client):
    tool = {"type": "function", **CLOCK["function"]}
    called = client.responses.create(
        model="byte",
        input="Time?",
        tools=[tool],
        tool_choice="required",
        max_output_tokens=200,
        parallel_tool_calls=False,
    )
    assert [(item.type, item.name) for item in called.output] == [("function_call", "clock")]
    output = [{"type": "function_call_output", "call_id": called.output[0].call_id, "output": "noon"}]
    assert client.responses.create(model="byte", input=output, previous_response_id=called.id, max_output_tokens=4).id

    class Flag(pydantic.BaseModel):
        on: bool

    assert isinstance(
        client.responses.parse(model="byte", input="?", text_format=Flag, max_output_tokens=60).output_parsed, Flag
    )


def test_async_client(server):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:

            async def one(seed: int) -> str:
                parts = []
                async for chunk in await client.chat.completions.create(
                    model="byte", messages=SAY, max_tokens=20, seed=seed, stream=True
                ):
                    parts.append(chunk.choices[0].delta.content or "")
                return "".join(parts)

            return await asyncio.gather(*(one(seed % 4) for seed in range(12)))

    texts = asyncio.run(ask())
    assert texts[:4] == texts[4:8] == texts[8:]  # seeds decide, not the batch


@pytest.mark.parametrize(
    ("error", "code", "request_"),
    [
        (openai.NotFoundError, "model_not_found", dict(model="gpt-4", messages=SAY)),
        (openai.BadRequestError, "context_length_exceeded", dict(model="byte", messages=[{"role": "user", "content": "x" * 5000}])),
        (openai.BadRequestError, "invalid_value", dict(model="byte", messages=SAY, n=1000)),
        (openai.BadRequestError, "invalid_value", dict(model="byte", messages=SAY, temperature=-1)),
        (openai.BadRequestError, "invalid_type", dict(model="byte", messages=[{"role": "king", "content": "x"}])),
        (openai.BadRequestError, "invalid_value", dict(model="byte", messages=[])),
        (openai.BadRequestError, "unknown_parameter", dict(model="byte", messages=SAY, extra_body={"temprature": 1})),
        (openai.BadRequestError, "unsupported_parameter", dict(model="byte", messages=SAY, extra_body={"chat_template": "{{ 1 }}"})),
        (openai.BadRequestError, "unsupported_content", dict(model="byte", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
        (openai.BadRequestError, None, dict(model="byte", messages=SAY, extra_body={"guided_regex": "(a+"})),
        (openai.BadRequestError, None, dict(model="byte", messages=SAY, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})),
    ],
)  # fmt: skip
def test_errors_have_openais_shape(client, error, code, request_):
    with pytest.raises(error) as raised:
        client.chat.completions.create(**{"max_tokens": 4, **request_})
    assert raised.value.code == code
    assert raised.value.body["type"] == "invalid_request_error"
    assert raised.value.body["message"]


def test_a_schema_that_fails_in_a_stream_is_still_a_400(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="byte", messages=SAY, stream=True, extra_body={"guided_regex": "(a+"})
