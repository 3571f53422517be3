"""Text classification on banking77: our default beside TF-IDF + LinearSVC on the same rows, mean over seeds.

    python -m bench.text [--seeds 0 1 2] [--kinds tfidf lstm transformer] [--rows N] [--data banking77]

Each seed draws a stratified tenth of the rows for testing; every model is trained on the other nine tenths and measured on it. Ours is
trained by `recipes/banking77.yaml`, through the trainer, from a dataset with these rows as its split, and without validation rows, as
LinearSVC has none either; LSTM and Transformer need a tenth of the training rows to choose their epoch, and `tfidf, a tenth for
validation` is given no more than that leaves, as `la.fit` does. The peer is given its stronger form: of word features (its usual ones) and word 1-2-grams + character 2-5-grams, the better one is the floor.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from leptonai.base.home import Home
from leptonai.data.importing import import_data
from leptonai.nets.learner import Learner
from leptonai.nets.registry import network_class
from leptonai.train.recipe import load_recipe
from leptonai.train.trainer import train

from .common import DATA, ROOT, save, show

SETS = {
    "banking77": ("banking77/train.csv", "category"),
    "clinc150": ("clinc150/train.json", "label"),
    "twitter": ("twitter-financial-sentiment/train.csv", "label"),
    "sentiment": ("uci-sentiment-sentences/train.jsonl", "label"),
}


def read(name: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a set."""
    import pandas as pd

    path, target = SETS[name]
    if name == "clinc150":
        texts, labels = zip(*json.loads((DATA / path).read_text())["train"], strict=True)
        return list(texts), list(labels)
    frame = pd.read_json(DATA / path, lines=True) if path.endswith("jsonl") else pd.read_csv(DATA / path)
    return frame["text"].tolist(), frame[target].astype(str).tolist()


def split(labels: list[str], seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of (training, test), stratified."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    return train_test_split(rows, test_size=share, random_state=seed, stratify=labels)


def ours(
    kind: str, texts: list[str], labels: list[str], parts: np.ndarray, seed: int, validation: float
) -> tuple[float, float]:
    """Test accuracy and seconds of a kind of network, trained as its recipe says on the rows marked `train`."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        table = pa.table({"text": texts, "category": labels, "split": parts.tolist()})
        import_data("banking77", table, types={"text": "text", "category": "category"}, home=home)
        settings = [f"model.kind={kind}", f"train.seed={seed}", f"data.split.validation={validation}"]
        recipe = load_recipe(ROOT / "recipes" / "banking77.yaml", settings)
        begin = time.monotonic()
        result = train(recipe, home)
        return result.metrics["test"]["accuracy"], time.monotonic() - begin


def linear_svc(texts: list[str], labels: list[str], parts: np.ndarray, characters: bool) -> tuple[float, float]:
    """scikit-learn's TfidfVectorizer and LinearSVC, as its documentation uses them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True) if characters else TfidfVectorizer()
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    model = make_pipeline(make_union(words, pieces) if characters else words, LinearSVC())
    begin = time.monotonic()
    rows, tests = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "test")
    model.fit([texts[row] for row in rows], [labels[row] for row in rows])
    right = model.predict([texts[row] for row in tests]) == np.array([labels[row] for row in tests])
    return float(right.mean()), time.monotonic() - begin


def is_learner_kind(kind: str) -> bool:
    return issubclass(network_class(kind), Learner)


def measure(name: str, seeds: list[int], kinds: list[str], most: int) -> list[dict]:
    texts, labels = read(name)
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        kept = np.arange(len(labels))
        if most < len(labels):
            kept = split(labels, seed, most / len(labels))[1]
        some_texts, some_labels = [texts[row] for row in kept], [labels[row] for row in kept]
        _, test = split(some_labels, seed)
        parts = np.full(len(some_labels), "train", object)
        parts[test] = "test"
        jobs = {
            "LinearSVC, words": partial(linear_svc, some_texts, some_labels, parts, characters=False),
            "LinearSVC, words + characters": partial(linear_svc, some_texts, some_labels, parts, characters=True),
        }
        for kind in kinds:
            share = 0.0 if is_learner_kind(kind) else 0.1
            jobs[kind] = partial(ours, kind, some_texts, some_labels, parts, seed, share)
        if is_learner_kind(kinds[0]):
            jobs[f"{kinds[0]}, a tenth for validation"] = partial(
                ours, kinds[0], some_texts, some_labels, parts, seed, 0.1
            )
        for what, job in jobs.items():
            results.setdefault(what, []).append(job())
            print(f"{name} seed {seed}: {what}: {results[what][-1][0]:.4f} in {results[what][-1][1]:.1f} s", flush=True)
    means = {what: np.mean(found, axis=0).tolist() for what, found in results.items()}
    floor = max(accuracy for what, (accuracy, _) in means.items() if what.startswith("LinearSVC"))
    return [
        {
            "what": f"{name}: {what}",
            "ours": accuracy,
            "unit": "accuracy",
            "peer": floor,
            "ratio": accuracy / floor,
            "points above": 100 * (accuracy - floor),
            "target": "≥ 1 ×" if what == kinds[0] else "",
            "seconds": seconds,
        }
        for what, (accuracy, seconds) in means.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["tfidf", "lstm", "transformer"])
    parser.add_argument("--data", nargs="+", choices=SETS, default=["banking77"])
    parser.add_argument("--rows", type=int, default=10**9, help="at most so many rows, to try the benchmark")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"Skipped: the real data is not here ({DATA.name}/ beside the repository).")
        return
    rows = [row for name in options.data for row in measure(name, options.seeds, options.kinds, options.rows)]
    show(rows)
    if options.rows == 10**9:
        save("text", rows, note=f"seeds {options.seeds}; peer: the better LinearSVC")


if __name__ == "__main__":
    main()
