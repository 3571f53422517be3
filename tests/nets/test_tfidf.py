"""The default text network: learns, says how sure it is, comes back from its arrays exactly, and keeps to its time."""

import numpy as np
import pytest

from leptonai.base.errors import Corrupt, InvalidInput
from leptonai.nets.registry import build, load_state, state_of

SUBJECTS = ["card", "transfer", "account", "refund", "password", "statement", "loan", "address"]
VERBS = {0: ["lost", "missing", "gone"], 1: ["late", "slow", "delayed"], 2: ["wrong", "broken", "false"]}


def complaints(n, seed=0, noise=0.0):
    """Texts whose class is in one of three verbs; a share `noise` has a class drawn anew."""
    random = np.random.default_rng(seed)
    target = random.integers(0, 3, n)
    texts = [
        f"my {random.choice(SUBJECTS)} is {random.choice(VERBS[c])} since {random.integers(100)} days" for c in target
    ]
    drawn = random.random(n) < noise
    target[drawn] = random.integers(0, 3, drawn.sum())
    return {"text": as_array(texts)}, target


def as_array(texts):
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


@pytest.fixture(scope="module")
def fitted():
    network = build("tfidf", {"classes": 3, "hidden": 32})
    network.fit(*complaints(400), seed=0)
    return network


def test_learns(fitted):
    inputs, target = complaints(200, seed=1)
    raw = fitted.predict(inputs)
    assert raw.shape == (200, 3) and raw.dtype == np.float32
    assert (raw.argmax(1) == target).mean() > 0.98


def test_state_rebuilds_equal_outputs(fitted):
    inputs, _ = complaints(50, seed=2)
    other = build("tfidf", fitted.config)
    load_state(other, state_of(fitted))
    assert np.array_equal(fitted.predict(inputs), other.predict(inputs))


def test_a_row_is_predicted_alike_alone_and_among_others(fitted):
    inputs, _ = complaints(20, seed=3)
    alone = np.concatenate([fitted.predict({"text": inputs["text"][i : i + 1]}) for i in range(20)])
    np.testing.assert_allclose(fitted.predict(inputs), alone, atol=1e-5)


def test_the_same_seed_gives_the_same_weights():
    def weights(seed):
        network = build("tfidf", {"classes": 3, "hidden": 8})
        network.fit(*complaints(100), seed=seed)
        return network.state()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["hidden"], other["hidden"])


def test_unknown_text_gives_the_usual_classes_and_not_certainty(fitted):
    raw = fitted.predict({"text": as_array(["", "☃", "qqqq"])})
    assert np.isfinite(raw).all()
    assert np.exp(raw - raw.max(1, keepdims=True)).min() > 0.05


def test_scores_are_as_sure_as_they_are_right():
    """A third of the labels is drawn at random: no score may claim much more than 1 − 2/9."""
    network = build("tfidf", {"classes": 3, "hidden": 32})
    network.fit(*complaints(900, noise=1 / 3), validation=complaints(300, seed=1, noise=1 / 3), seed=0)
    inputs, target = complaints(600, seed=2, noise=1 / 3)
    raw = network.predict(inputs)
    sure = (np.exp(raw) / np.exp(raw).sum(1, keepdims=True)).max(1)
    assert abs(sure.mean() - (raw.argmax(1) == target).mean()) < 0.06


def test_validation_rows_with_unknown_labels_are_left_out():
    inputs, target = complaints(60, seed=1)
    target[:50] = -1
    network = build("tfidf", {"classes": 3, "hidden": 8})
    network.fit(*complaints(100), validation=(inputs, target), seed=0)
    assert np.isfinite(network.scale)


class FakeClock:
    """A clock that goes `step_s` on each time it is looked at: a slow machine, without the waiting."""

    def __init__(self, step_s):
        self.now_s, self.step_s = 0.0, step_s

    def monotonic(self):
        self.now_s += self.step_s
        return self.now_s


@pytest.mark.parametrize(("step_s", "least"), [(0.01, 0.95), (0.1, 0.9), (20.0, 0.0)])
def test_keeps_to_its_deadline_with_what_it_learned_by_then(monkeypatch, step_s, least):
    clock, rounds = FakeClock(step_s), []
    monkeypatch.setattr("leptonai.nets.tfidf.time", clock)
    monkeypatch.setattr("leptonai.nets.learner.time", clock)
    network = build("tfidf", {"classes": 3, "hidden": 16})
    network.fit(*complaints(2000), deadline=8.0, progress=lambda *done: rounds.append(done))
    assert clock.now_s <= max(8.0, 8 * step_s)
    assert len(rounds) < rounds[0][1] or step_s == 0.01
    inputs, target = complaints(200, seed=2)
    assert (network.predict(inputs).argmax(1) == target).mean() >= least


def test_progress_ends_at_the_last_round_with_a_low_loss():
    seen = []
    network = build("tfidf", {"classes": 3, "hidden": 8})
    network.fit(*complaints(300), validation=complaints(100, seed=1), progress=lambda *done: seen.append(done))
    assert [done for done, _, _ in seen] == list(range(1, seen[0][1] + 1))
    assert seen[-1][2] < 0.1  # guessing has log 3


def test_rows_that_weigh_nothing_teach_nothing():
    inputs, target = complaints(300)
    wrong = np.concatenate([target, (target + 1) % 3, (target + 1) % 3])
    both = {"text": np.concatenate([inputs["text"]] * 3)}
    network = build("tfidf", {"classes": 3, "hidden": 8})
    network.fit(both, wrong, weights=np.repeat([1.0, 0.0, 0.0], 300))
    assert (network.predict(inputs).argmax(1) == target).mean() > 0.98


def test_two_texts_are_enough():
    network = build("tfidf", {"classes": 2, "hidden": 4})
    network.fit({"text": as_array(["yes please", "no thanks"])}, np.array([0, 1]))
    assert network.predict({"text": as_array(["yes", "no"])}).argmax(1).tolist() == [0, 1]


def test_what_cannot_be_is_refused(fitted):
    with pytest.raises(InvalidInput, match="dropout"):
        build("tfidf", {"classes": 3, "dropout": 1.0})
    with pytest.raises(Corrupt, match="do not fit"):
        load_state(build("tfidf", {"classes": 4, "hidden": 32}), state_of(fitted))
