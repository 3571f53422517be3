"""Another version takes over while clients go on: no request fails, every answer says which version gave it."""

import threading

import pytest

from leptonai.photon.process import running_services, start_service
from leptonai.tasks.model import load

from .conftest import ROW, call, train_digits


def test_no_request_fails_while_versions_change(home):
    """Eight clients, six swaps. Each answer is exactly what the version it names predicts."""
    expected = {ref: load(ref, home).predict(ROW) for ref in ("digits@1", "digits@2")}
    assert expected["digits@1"] != expected["digits@2"]
    wrong: list = []
    counts = {ref: 0 for ref in expected}
    stop, lock = threading.Event(), threading.Lock()

    def client(service):
        while not stop.is_set():
            status, answer, _ = call(service, "POST", "/predict", ROW)
            with lock:
                if status != 200 or answer["prediction"] != expected[answer["model"]]:
                    wrong.append((status, answer))
                else:
                    counts[answer["model"]] += 1

    with start_service("digits@1", "digits", home=home) as service:
        clients = [threading.Thread(target=client, args=(service,)) for _ in range(8)]
        for thread in clients:
            thread.start()
        for ref in ("digits@2", "digits@1") * 3:
            status, answer, _ = call(service, "PUT", "/model", {"ref": ref})
            assert (status, answer["model"]) == (200, ref)
            # From here on only the new version answers.
            assert call(service, "POST", "/predict", ROW)[1]["model"] == ref
        stop.set()
        for thread in clients:
            thread.join()
        metrics = call(service, "GET", "/metrics")[1]

    assert not wrong
    assert min(counts.values()) > 0
    assert 'lepton_swaps_total{result="done"} 6' in metrics
    assert 'lepton_model_info{model="digits@1",task="tabular-classification"} 1' in metrics
    assert "digits@2" not in next(line for line in metrics.splitlines() if line.startswith("lepton_model_info"))


def test_latest_and_tags_name_a_version(home):
    from leptonai.zoo.store import ModelStore

    ModelStore(home).tag("digits@1", "production")
    with start_service("digits@production", "digits", home=home) as service:
        assert call(service, "GET", "/model")[1]["model"] == "digits@1"
        assert call(service, "PUT", "/model", {"ref": "digits"})[1] == {"model": "digits@2", "before": "digits@1"}
        assert [one.model for one in running_services(home)] == ["digits@2"]


@pytest.mark.parametrize(
    ("ref", "status", "words"),
    [
        ("prices", 409, "another signature"),
        ("few", 409, "no longer knows classes"),
        ("digits@9", 404, "no version 9"),
        ("digitz", 404, "Did you mean 'digits'"),
        ("../digits", 400, "cannot be the name"),
        ("/etc", 400, "cannot be the name"),
        ("", 400, "model"),
    ],
)
def test_what_cannot_take_over_is_refused_and_the_old_version_stays(served, ref, status, words):
    got, answer, _ = call(served, "PUT", "/model", {"ref": ref})

    assert (got, words in answer["error"]) == (status, True), answer
    assert call(served, "POST", "/predict", ROW)[1]["model"] == "digits@1"


@pytest.mark.parametrize("body", [{}, {"ref": 3}, {"ref": "digits@2", "force": True}, ["digits@2"]], ids=str)
def test_a_swap_that_cannot_be_meant(served, body):
    assert call(served, "PUT", "/model", body)[0] == 400


def test_a_version_with_damaged_weights_never_serves(home):
    train_digits(home, 700)
    weights = home.models / "digits" / "3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)

    with start_service("digits@1", "digits", home=home) as service:
        status, answer, _ = call(service, "PUT", "/model", {"ref": "digits@3"})
        assert (status, answer["code"]) == (500, "Corrupt")
        assert call(service, "POST", "/predict", ROW)[1]["model"] == "digits@1"


def test_a_version_that_predicts_no_numbers_never_serves(home):
    """Its files are whole, its weights are NaN: the check before the switch sees it."""
    import numpy as np

    from leptonai.zoo.store import ModelStore

    model = load("digits@2", home)
    model.network.weight = np.full_like(model.network.weight, np.nan)
    folder = model.save(home.root / "broken")
    ModelStore(home).push(folder, "digits")

    with start_service("digits@1", "digits", home=home) as service:
        status, answer, _ = call(service, "PUT", "/model", {"ref": "digits@3"})
        assert status == 500
        assert "numbers" in answer["error"]
        assert call(service, "GET", "/model")[1]["model"] == "digits@1"
