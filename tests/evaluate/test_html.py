"""The page: one file, nothing fetched, nothing run, whatever the names say; and it draws every kind of report."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from leptonai.evaluate.classification import report_classification
from leptonai.evaluate.examples import picture
from leptonai.evaluate.html import report_html
from leptonai.evaluate.regression import report_regression
from leptonai.evaluate.report import plain
from leptonai.evaluate.slices import group_values, measure_slices
from leptonai.evaluate.svg import short, ticks

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&{}\0\x1b[31m"


def page(name="model", classes=("a", "b", "c"), rows=200, worst=None, **parts):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, len(classes), rows)
    outputs = generator.dirichlet(np.ones(len(classes)), rows)
    body = report_classification(truth, outputs, list(classes), count=50)
    return report_html(plain({**frame(name), **body, "worst": worst or [], **parts}))


def frame(name):
    return {
        "model": {"ref": name, "network": name},
        "dataset": {"ref": name, "content_hash": name, "rows": 200},
        "task": name, "target": name, "split": "test", "rows": 200, "metric": "accuracy", "seed": 0,
        "created_at": "2026-01-01T00:00:00", "lepton_version": "0", "notes": [name], "warnings": [name],
        "slices": [], "comparison": None, "worst": [],
    }  # fmt: skip


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that elements close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def hostile_page():
    slices = measure_slices({EVIL: group_values([EVIL, "x"] * 100)}, np.arange(200) % 2, np.eye(2)[np.zeros(200, int)])
    rows = [{"row": 1, "true": EVIL, "predicted": EVIL, "score": 0.5, "score_of_true": 0.1, "loss": 2.0, "inputs": inputs}
            for inputs in ({EVIL: EVIL}, {EVIL: EVIL, "b": None}, {"i": {"image": "https://evil.test/x.png"}})]  # fmt: skip
    changed = [{**row, "other_predicted": EVIL} for row in rows]
    comparison = {
        "other": EVIL, "metric": "accuracy", "value": 0.5, "other_value": 0.4, "difference": 0.1, "low": 0.0, "high": 0.2,
        "p_value": 0.01, "verdict": "better", "test": EVIL, "gained": 3, "lost": 3, "gained_rows": changed, "lost_rows": changed[:2],
    }  # fmt: skip
    return page(EVIL, (EVIL, EVIL + "2", "c"), worst=rows[:2], slices=slices, comparison=comparison)


def test_no_name_becomes_markup():
    text = hostile_page()
    found = Reader(text)

    assert "script" not in found.tags
    assert found.open == []
    assert not [entry for entry in found.attributes if entry[1].startswith("on")]
    assert "\0" not in text
    assert "\x1b" not in text


def test_the_page_needs_nothing_else():
    found = Reader(hostile_page())

    assert not found.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    sources = [value for _, name, value in found.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not [entry for entry in found.attributes if entry[1] == "style"]


def test_the_policy_allows_this_style_and_nothing_else():
    text = page()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].replace("&#x27;", "'")
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "http:" not in style
    assert "url(" not in style


@pytest.mark.parametrize("classes", [2, 10, 40, 151])
def test_every_number_of_classes_is_drawn(classes):
    text = page(classes=[f"class {i}" for i in range(classes)], rows=1500)

    Reader(text)
    assert len(text) < 1_500_000
    assert ("Confusion matrix" in text) == (classes <= 150)
    assert "class 1" in text


def test_regression_is_drawn():
    truth = np.random.default_rng(0).normal(size=300) * 1e5
    body = report_regression(truth, truth * 0.9, count=50)
    row = {"row": 7, "true": 1.0, "predicted": 2.0, "error": 1.0, "loss": 1.0, "inputs": {"a": 1, "b": "x"}}
    text = report_html(plain({**frame("m"), **body, "metric": "rmse", "worst": [row]}))

    Reader(text)
    for part in ("RMSE", "Predicted against true", "Residuals", "Along the target", "off by"):
        assert part in text


@pytest.mark.parametrize("value", [np.zeros((8, 8, 1), np.uint8), np.zeros((300, 200, 3), np.uint8)])
def test_pictures_are_small_pngs(value, tmp_path):
    import io

    uri = picture(value)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))

    assert uri.startswith("data:image/png;base64,")
    assert max(image.size) <= 112
    assert picture(b"not an image") is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 1e7), (0, 1e-9), (5, 5), (0.9, 1), (float("nan"), 1)])
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high)

    assert 1 <= len(found) <= 7
    assert all(not value < low - 1e-9 and not value > high + 1e-9 for value in found)


def test_numbers_on_axes_are_short():
    assert [short(value) for value in (0, 0.25, -1234, 12_000, 3.5e6, -2e9)] == [
        "0",
        "0.25",
        "−1234",
        "12 k",
        "3.5 M",
        "−2 G",
    ]
