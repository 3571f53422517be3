"""`hf:` through transformers, on tiny models made here: no network, no download."""

import pytest

from leptonai.base.errors import InvalidInput
from leptonai.photon.framework import models

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "dog", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=2,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_a_classifier_by_its_task_and_by_its_config(serve, bert):
    for text in (f"hf:text-classification:{bert}", f"hf:{bert}"):
        client = serve(models.create("tiny", text))
        found = client.post("/run", json={"inputs": "good dog"})
        assert found.status_code == 200, found.text
        assert 0 <= found.json()[0]["score"] <= 1
        assert client.post("/run", json={"inputs": "x", "trust_remote_code": True}).status_code == 400


def test_sentence_similarity(serve, bert):
    client = serve(models.create("tiny", f"hf:sentence-similarity:{bert}"))
    same, other = client.post("/run", json={"source_sentence": "good dog", "sentences": ["good dog", "bad cat"]}).json()
    assert same == pytest.approx(1, abs=1e-5) and other < same
    vector = client.post("/embed", json={"inputs": "good dog"}).json()
    assert (len(vector), sum(v * v for v in vector)) == (16, pytest.approx(1, abs=1e-5))


def test_a_task_that_is_not_served_is_said():
    with pytest.raises(InvalidInput, match="Did you mean 'text-generation'"):
        models.create("x", "hf:text-generatio:org/model")
