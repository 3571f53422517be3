"""Every method in the loop: what it trains, what it publishes, what it says, and that a killed run goes on as it was."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from leptonai.base.errors import InvalidInput
from leptonai.data.importing import import_data
from leptonai.nets.registry import state_of
from leptonai.tasks.model import load
from leptonai.train.plan import make_plan
from leptonai.train.recipe import parse_recipe
from leptonai.train.run import Run
from leptonai.train.trainer import fit_network, open_run, train

DIGITS = "recipe: 1\ntask: image-classification\ndata: {dataset: digits, target: label, split: {test: 0.2}}\n"
SMALL = "model: {kind: cnn, widths: [8, 16], dense: 32, dropout: 0.0}\ntrain: {epochs: 6, batch: 64, learning_rate: 1e-2, augment: false}\n"
TEXTS = (
    "recipe: 1\ntask: text-classification\ndata: {dataset: words, target: label, inputs: [text], split: {test: 0.2}}\n"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a trained CNN `digits@1` and a trained Transformer `words@1`."""
    from leptonai.base.home import Home

    home = Home(tmp_path_factory.mktemp("home"), "default")
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    import_data("digits", {"image": pixels, "label": labels}, home=home)
    random = np.random.default_rng(0)
    kinds = {"fruit": ["apple", "pear", "plum"], "tool": ["saw", "drill", "file"]}
    rows = [
        (" ".join(random.choice([*words, "the", "a", "of"], 6)), label)
        for label, words in kinds.items()
        for _ in range(200)
    ]
    import_data(
        "words",
        {"text": [text for text, _ in rows], "label": [label for _, label in rows]},
        types={"text": "text"},
        home=home,
    )
    train(parse_recipe(DIGITS + SMALL), home)
    train(
        parse_recipe(TEXTS + "model: {kind: transformer, width: 32, layers: 2, heads: 2}\ntrain: {epochs: 3}\n"), home
    )
    return home


def method(home, text, data=DIGITS, name="new"):
    """Train with `text` (the parts `model`, `method`, `train`); the result and the facts that the methods give."""
    result = train(parse_recipe(data + text + f"publish: {{name: {name}}}\n"), home)
    return result, result.run.record.data.get("method", {})


SHORT = "train: {epochs: 2, batch: 64, learning_rate: 2e-3, augment: false}\n"


LONGER = SHORT.replace("epochs: 2", "epochs: 6").replace("2e-3", "1e-2")


@pytest.mark.parametrize("name", ["lora: {rank: 2}", "ia3: {}"])
def test_low_rank_changes_are_merged(trained, name):
    result, facts = method(trained, f"model: {{from: digits@1}}\nmethod: {{{name}}}\n{SHORT}")
    found = facts[name.split(":")[0]]
    assert found["trained_parameters"] < found["parameters"] / 2
    parent, model = load("digits@1", trained), load(result.entry.ref, trained)
    assert state_of(model.network).keys() == state_of(parent.network).keys()
    assert not np.array_equal(state_of(model.network)["blocks.0.weight"], state_of(parent.network)["blocks.0.weight"])
    assert result.metrics["test"]["accuracy"] >= result.metrics["before"]["accuracy"] - 0.02


@pytest.mark.parametrize(
    ("name", "option"),
    [("adapter: {size: 4}", "adapter"), ("prefix: {length: 3}", "prefix"), ("prompt: {length: 3}", "prompt")],
)
def test_small_parts_are_added_and_only_they_learn(trained, name, option):
    result, facts = method(trained, f"model: {{from: words@1}}\nmethod: {{{name}}}\ntrain: {{epochs: 1}}\n", TEXTS)
    assert facts[option]["trained_parameters"] < facts[option]["parameters"] / 4
    before, after = state_of(load("words@1", trained).network), state_of(load(result.entry.ref, trained).network)
    moved = {n for n in after if n not in before or not np.array_equal(before[n], after[n])}
    assert moved
    assert all(option in n or n.startswith("head") for n in moved)
    assert result.entry.manifest.network["config"][option] > 0


def test_an_adapter_needs_attention(trained):
    with pytest.raises(InvalidInput, match="needs a network with attention"):
        method(trained, f"model: {{from: digits@1}}\nmethod: {{adapter: {{size: 4}}}}\n{SHORT}")


def test_what_adapts_a_trained_model_needs_one(trained):
    with pytest.raises(InvalidInput, match=r"without `model\.from`"):
        method(trained, f"model: {{kind: cnn}}\nmethod: {{lora: {{rank: 2}}}}\n{SHORT}")


def test_only_the_named_layers_learn(trained):
    result, _ = method(trained, f"model: {{from: digits@1}}\nmethod: {{partial: {{train: [head]}}}}\n{SHORT}")
    before, after = state_of(load("digits@1", trained).network), state_of(load(result.entry.ref, trained).network)
    weights = [n for n in before if n.endswith("weight") and before[n].ndim > 1]
    assert {n for n in weights if not np.array_equal(before[n], after[n])} == {
        n for n in weights if n.startswith("head")
    }
    with pytest.raises(InvalidInput, match="Did you mean 'head'"):
        method(trained, f"model: {{from: digits@1}}\nmethod: {{partial: {{train: [heads]}}}}\n{SHORT}")


def test_rates_fall_towards_the_inputs(trained):
    slow, _ = method(trained, f"model: {{from: digits@1}}\nmethod: {{layer_rates: {{decay: 0.1}}}}\n{SHORT}")
    before, after = (state_of(load(ref, trained).network) for ref in ("digits@1", slow.entry.ref))
    change = {n: np.abs(before[n] - after[n]).max() for n in ("blocks.0.weight", "head.4.weight")}
    assert change["blocks.0.weight"] < change["head.4.weight"] / 10


def test_a_student_learns_from_a_model_of_another_kind(trained):
    text = "model: {kind: cnn, widths: [4], dense: 8, dropout: 0.0}\nmethod: {distill: {teacher: digits@1}}\n"
    result, facts = method(trained, text + "train: {epochs: 12, batch: 32, learning_rate: 1e-2}\n")
    assert facts["distill"]["parameters"] < facts["distill"]["teacher_parameters"] / 2
    assert result.metrics["test"]["accuracy"] > 0.85
    with pytest.raises(InvalidInput, match="cannot teach"):
        method(trained, text.replace("digits@1", "words@1") + SHORT)


def test_half_of_the_channels_really_go(trained):
    result, facts = method(trained, f"model: {{from: digits@1}}\nmethod: {{prune: {{share: 0.5}}}}\n{LONGER}")
    assert result.entry.manifest.network["config"]["widths"] == [4, 8]
    assert facts["prune"]["parameters"] < facts["prune"]["parameters_before"] / 2.5
    assert result.metrics["test"]["accuracy"] > 0.9


@pytest.mark.parametrize(("bits", "aware", "smaller"), [(8, False, 3.0), (4, True, 4.5)])
def test_quantized_weights_are_small_and_served_as_measured(trained, bits, aware, smaller):
    text = f"method: {{quantize: {{bits: {bits}, aware: {str(aware).lower()}}}}}\n"
    result, facts = method(trained, f"model: {{from: digits@1}}\n{text}{SHORT}")
    assert facts["quantize"]["bytes_before"] / facts["quantize"]["bytes"] > smaller
    assert facts["quantize"]["accuracy"] >= result.metrics["before"]["accuracy"] - 0.05
    loaded = load(result.entry.ref, trained)
    assert all(np.array_equal(a, state_of(loaded.network)[n]) for n, a in state_of(result.model.network).items())
    again = loaded.save(trained.root / f"copy-{bits}") if hasattr(trained, "root") else None
    if again is not None:
        assert (again / "model.safetensors").stat().st_size == (
            result.entry.folder / "model.safetensors"
        ).stat().st_size


def test_adversarial_training_withstands_what_fooled_its_parent(trained):
    _, facts = method(
        trained, "model: {from: digits@1}\nmethod: {adversarial: {epsilon: 0.1}}\n"
        "train: {epochs: 4, batch: 64, learning_rate: 5e-3, augment: false}\n",
    )  # fmt: skip
    assert facts["adversarial"]["robust_accuracy"] > facts["adversarial"]["robust_accuracy_before"] + 0.05


@pytest.fixture(scope="module")
def new_classes(trained):
    """Rows of only the digits 5 to 9: training on them alone forgets 0 to 4."""
    images, labels = load_digits(return_X_y=True)
    chosen = labels >= 5
    pixels = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)[chosen]
    import_data("late", {"image": pixels, "label": labels[chosen]}, home=trained)
    return DIGITS.replace("digits", "late")


@pytest.mark.parametrize("name", ["replay: {share: 0.4}", "ewc: {strength: 1000, rows: 200}"])
def test_old_rows_are_not_forgotten(trained, new_classes, name):
    alone = train(
        parse_recipe(new_classes + "model: {from: digits@1}\n" + SHORT.replace("2e-3", "1e-2") + "publish: null\n"),
        trained,
    )
    _, facts = method(
        trained, f"model: {{from: digits@1}}\nmethod: {{{name}}}\n" + SHORT.replace("2e-3", "1e-2"), new_classes
    )
    found = facts[name.split(":")[0]]
    from leptonai.data.dataset import open_dataset
    from leptonai.train.measure import HeldOut

    old = open_dataset("digits@1", trained)
    rows = parts(old, load("digits@1", trained))
    forgot = HeldOut(alone.model.task, old.columns(["image", "label"]), rows).measure(alone.model.network)["accuracy"]
    assert found["old_accuracy_before"] > 0.9
    assert found["old_accuracy"] > forgot + 0.05


def parts(dataset, model):
    from leptonai.train.rows import parts_of

    return parts_of(dataset, model.manifest.lineage["split"])["test"]


ADAPT = (
    DIGITS
    + "model: {kind: cnn, widths: [16, 32], dense: 64, dropout: 0.0}\nmethod: {adapt: {start: 0.25, deepen: 1}}\n"
)


def test_an_adaptive_network_grows_to_its_full_width(trained):
    result, facts = method(
        trained, ADAPT.removeprefix(DIGITS) + "train: {epochs: 10, batch: 64, learning_rate: 1e-2, augment: false}\n"
    )
    history = [step["parameters"] for step in facts["adapt"]["history"]]
    assert len(history) >= 3
    assert history == sorted(history)
    assert facts["adapt"]["compute_share"] < 0.9
    assert result.metrics["test"]["accuracy"] > 0.9


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def unbroken(trained):
    return train(parse_recipe(ADAPT + TWELVE + "publish: {name: whole}\n"), trained)


TWELVE = "train: {epochs: 12, batch: 16, learning_rate: 1e-2, augment: false}\n"


@pytest.mark.parametrize("step", [100, 300, 500, 800])
def test_an_adaptive_run_that_was_stopped_ends_with_the_same_weights(trained, unbroken, step, monkeypatch):
    """Before and after each growth. (`test_trainer.py` kills whole processes.)"""
    recipe = parse_recipe(ADAPT + TWELVE + f"publish: {{name: broken-{step}}}\n")
    plan = make_plan(recipe, trained)
    run = open_run(plan, trained)
    steps = Run.steps

    def until(self, loader, until):
        for number, batch in steps(self, loader, until):
            yield number, batch
            if number == step:
                self.save()
                raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Run, "steps", until)
        fit_network(plan, run)
    run.finish("stopped")
    continued = train(recipe, trained)
    assert continued.run.id == run.id
    first, second = state_of(unbroken.model.network), state_of(continued.model.network)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_unknown_method_is_named(trained):
    with pytest.raises(InvalidInput, match="did you mean `lora`"):
        parse_recipe(DIGITS + "method: {lorra: {rank: 2}}\n")
