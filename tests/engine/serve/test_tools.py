"""Tool calls are read from text however it is cut, and text that only looks like one stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.engine.tools import Call, ToolParser, call_schema, detect_format

ROME = Call("weather", '{"city": "Rome"}')
TWO = [ROME, Call("clock", "{}")]
HERMES = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
CASES = {
    "hermes": (HERMES, "Let me see.", TWO),
    "llama3": ('{"name": "weather", "parameters": {"city": "Rome"}}; {"name": "clock", "parameters": {}}', "", TWO),
    "llama3 tagged": ('<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}', "", [ROME]),
    "mistral": (
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "clock", "arguments": {}}]',
        "",
        TWO,
    ),
    "mistral named": ('Sure.[TOOL_CALLS]weather{"city": "Rome"}[TOOL_CALLS]clock{}', "Sure.", TWO),
    "forced": ('[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "clock", "arguments": {}}]', "", TWO),
}


def parse(case: str, pieces: list[str]) -> tuple[str, list[Call]]:
    parser = ToolParser(case.split()[0], {"weather", "clock"})
    shown, calls = "", []
    for piece in pieces:
        text, found = parser.push(piece)
        shown, calls = shown + text, calls + found
    text, found = parser.finish()
    return shown + text, calls + found


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_calls_are_found_however_the_text_is_cut(case, data):
    text, shown, calls = CASES[case]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(case, pieces) == (shown, calls)


@pytest.mark.parametrize("format", ["hermes", "llama3", "mistral"])
@given(text=st.text("ab <[{>\n", max_size=40))
def test_text_without_calls_comes_whole(format, text):
    shown, calls = parse(format, list(text))
    assert not calls
    assert shown.strip() == text.strip()


@pytest.mark.parametrize("broken", ["<tool_call>{not json}</tool_call>", '<tool_call>{"name": 3}</tool_call>'])
def test_a_call_that_is_none_is_no_call(broken):
    assert parse("hermes", [broken])[1] == []


def test_formats_are_known_from_the_template():
    assert detect_format("… <tool_call> …") == "hermes"
    assert detect_format("… [TOOL_CALLS] …") == "mistral"
    assert detect_format("… <|python_tag|> …") == "llama3"
    assert detect_format(None) == "hermes"


def test_definitions_of_a_schema_are_found_where_references_point():
    parameters = {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Place"}},
        "$defs": {"Place": {"enum": ["here"]}},
    }
    schema = call_schema([{"name": "go", "parameters": parameters}], only="go", parallel=True)
    assert schema["$defs"]["Place"] == {"enum": ["here"]}
    assert schema["maxItems"] == 1
    assert json.dumps(schema["items"]).count("$defs") == 1
