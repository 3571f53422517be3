"""Text classification on texts as they come: several columns, none, endless, in any script, and what cannot be read."""

import numpy as np
import pyarrow as pa
import pytest

from leptonai.base.errors import Corrupt, InvalidInput
from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.tasks.text_classification import MOST_CHARACTERS, MOST_TOKENS, TextClassification, join_text

from .cases import fit_network, make_model

CHINESE = {
    "卡": ["我的卡丢了", "新卡什么时候到", "卡被吞了", "我要换一张卡"],
    "转账": ["转账失败了", "转账要多久", "为什么转账很慢", "取消这笔转账"],
}


def dataset(tmp_path, table, **types):
    return import_data("texts", pa.table(table), types=types or None, home=Home(tmp_path))


def trained(data, kind="tfidf", config=None, inputs=None):
    task = TextClassification.plan(data, "label", inputs, kind)
    columns, rows = data.columns(), np.arange(data.num_rows)
    task.fit(columns, rows)
    return make_model(task, fit_network(task, task.build(kind, config or {"hidden": 16}), columns, rows, steps=40))


def reviews(n=60):
    random = np.random.default_rng(0)
    words = [["good", "great", "fine"], ["bad", "poor", "awful"]]
    return {
        "text": [f"a {random.choice(words[i % 2])} thing number {random.integers(50)}" for i in range(n)],
        "label": [["praise", "complaint"][i % 2] for i in range(n)],
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(dataset(tmp_path_factory.mktemp("home"), reviews(), text="text"))


def test_predicts_a_label_with_its_score(model):
    assert model.predict({"text": "what a great thing"})["label"] == "praise"
    assert model.predict({"text": "an awful thing"})["score"] > 0.6


@pytest.mark.parametrize("kind", ["tfidf", "lstm", "transformer"])
def test_text_without_spaces_is_learned(tmp_path, kind):
    """Characters are enough: the new sentences share no whole sentence, and so no word by spaces, with the training rows."""
    rows = [(text, label) for label, texts in CHINESE.items() for text in texts * 4]
    data = dataset(
        tmp_path, {"text": [t for t, _ in rows], "label": [c for _, c in rows]}, text="text", label="category"
    )
    found = (
        trained(data, kind).predict([{"text": "卡在哪里"}, {"text": "转账丢了"}])
        if kind == "tfidf"
        else trained(data, kind, {"dropout": 0.0}).predict([{"text": "我的卡丢了"}, {"text": "转账要多久"}])
    )
    assert [row["label"] for row in found] == ["卡", "转账"]


@pytest.mark.parametrize(
    "text", ["", " ", None, float("nan"), "🙂🙃👩‍👩‍👧", "\x00", "\ud83d", "未知的文字", "a" * 1_000_000, "x " * 500_000]
)
def test_any_text_gets_an_answer(model, text):
    answer = model.predict({"text": text})
    assert answer["label"] in ("praise", "complaint")
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_missing_and_empty_are_the_same(model):
    assert model.predict({"text": None}) == model.predict({"text": ""})


def test_a_long_text_is_read_from_its_beginning():
    assert join_text(["a" * 5, "b" * MOST_CHARACTERS]) == "a" * 5 + "\n" + "b" * (MOST_CHARACTERS - 6)


def test_columns_are_joined_in_their_order(tmp_path):
    table = reviews() | {"title": ["thing"] * 60}
    data = dataset(tmp_path, table, text="text", title="text")
    task = TextClassification.plan(data, "label", ["title", "text"])
    task.fit(data.columns(), np.arange(60))
    encoded = task.encode(task.columns_of([{"title": "A", "text": "b"}, {"title": None, "text": "c"}]))
    assert encoded.inputs["text"].tolist() == ["A\nb", "c"]
    assert encoded.target is None
    assert task.request_schema["required"] == ["title", "text"]


def test_unasked_only_text_is_read(tmp_path):
    table = reviews() | {"source": ["shop", "film"] * 30, "stars": [5, 1] * 30}
    data = dataset(tmp_path, table, text="text", source="category")
    assert [c.name for c in TextClassification.plan(data, "label", None).inputs] == ["text"]
    assert [c.name for c in TextClassification.plan(data, "label", ["source", "text"]).inputs] == ["source", "text"]
    with pytest.raises(InvalidInput, match="cannot read column 'stars'"):
        TextClassification.plan(data, "label", ["stars"])


def test_a_table_without_text_is_refused_with_the_fix(tmp_path):
    data = dataset(tmp_path, {"age": [1, 2, 3, 4], "label": ["a", "b"] * 2})
    with pytest.raises(InvalidInput, match=r"needs a column of text.*age.*--type"):
        TextClassification.plan(data, "label", None)


def test_rows_without_any_text_are_refused(tmp_path):
    data = dataset(tmp_path, {"text": pa.array([None, " "] * 4, pa.string()), "label": ["a", "b"] * 4}, text="text")
    task = TextClassification.plan(data, "label", ["text"])
    with pytest.raises(InvalidInput, match="no text in text"):
        task.fit(data.columns(), np.arange(8))


def test_a_misspelt_field_is_named(model):
    with pytest.raises(InvalidInput, match="Did you mean 'text' by 'txt'"):
        model.predict({"txt": "good"})
    with pytest.raises(InvalidInput, match=r"row 0, column 'text'.*text or null"):
        model.predict({"text": 7})


def test_tokens_end_in_padding_and_stay_within_bounds(tmp_path):
    data = dataset(tmp_path, reviews() | {"text": ["word " * 1_000, "good", *reviews()["text"][2:]]}, text="text")
    task = TextClassification.plan(data, "label", None, "lstm")
    task.fit(data.columns(), np.arange(60))
    tokens = task.encode(data.columns()).inputs["tokens"]
    assert tokens.shape == (60, MOST_TOKENS) and tokens.dtype == np.int32
    assert (tokens[0] > 0).all()
    assert tokens[1, 0] > 0 and (tokens[1, 5:] == 0).all()
    assert tokens.max() < task.tokenizer.get_vocab_size()


def test_tokens_say_the_text_again_whatever_the_script(tmp_path):
    data = dataset(tmp_path, reviews(), text="text")
    task = TextClassification.plan(data, "label", None, "gru")
    task.fit(data.columns(), np.arange(60))
    for text in ("a good thing", "未知", "🙂 né"):
        assert task.tokenizer.decode(task.tokenizer.encode(text).ids).strip() == text


def test_the_vocabulary_comes_from_training_rows_only(tmp_path):
    table = reviews()
    table["text"][40:] = [text + " zebra" for text in table["text"][40:]]
    data = dataset(tmp_path, table, text="text")
    task = TextClassification.plan(data, "label", None, "gru")
    task.fit(data.columns(), np.arange(40))
    assert not any("zeb" in token for token in task.tokenizer.get_vocab())


def test_a_model_without_its_tokenizer_is_corrupt(tmp_path):
    data = dataset(tmp_path, reviews(), text="text")
    task = TextClassification.plan(data, "label", None, "gru")
    task.fit(data.columns(), np.arange(60))
    again = TextClassification.from_state(task.state(), task.files())
    columns = task.columns_of([{"text": "a good thing"}])
    assert np.array_equal(again.encode(columns).inputs["tokens"], task.encode(columns).inputs["tokens"])
    with pytest.raises(Corrupt, match="no tokenizer"):
        TextClassification.from_state(task.state(), {})
    with pytest.raises(Corrupt, match="cannot be read"):
        TextClassification.from_state(task.state(), {"tokenizer.json": b"{"})
