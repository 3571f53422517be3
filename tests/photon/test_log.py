"""What was answered is in the log, whatever kills the process; what cannot be stored is said."""

import os
import resource
import signal
import sqlite3
import threading
from contextlib import closing

import pytest

from leptonai.base.errors import Unavailable
from leptonai.photon.collecting import collect, summary
from leptonai.photon.process import running_services, start_service, stop_service

from .conftest import ROW, call


def logged_requests(home, service="digits") -> set[str]:
    with closing(sqlite3.connect(home.services / service / "log.db")) as connection:
        return {name for (name,) in connection.execute("SELECT id FROM requests")}


def test_every_answer_and_every_feedback_survives_sigkill(home):
    """Killed under load from six clients; whatever a client was told is there after the restart."""
    answered, thanked = set(), set()

    def client(service):
        try:
            while True:
                request = call(service, "POST", "/predict", ROW)[1]["request_id"]
                answered.add(request)
                if call(service, "POST", "/feedback", {"request_id": request, "label": 4})[0] == 200:
                    thanked.add(request)
                if len(thanked) > 100:
                    enough.set()
        except (OSError, ValueError):
            pass  # the server is gone
        except Exception as error:  # http.client: the answer was cut off
            assert type(error).__module__ == "http.client"

    enough = threading.Event()
    service = start_service("digits@1", "digits", home=home)
    clients = [threading.Thread(target=client, args=(service,)) for _ in range(6)]
    for thread in clients:
        thread.start()
    assert enough.wait(60)
    os.kill(service.pid, signal.SIGKILL)
    for thread in clients:
        thread.join()
    service.child.wait()

    assert answered <= logged_requests(home)
    with start_service("digits@1", "digits", home=home) as service:
        early = min(answered)
        assert call(service, "POST", "/feedback", {"request_id": early, "label": 9})[0] == 200
        table = collect("digits", home)
    assert table.num_rows >= len(thanked)
    assert 9 in table.column("digit").to_pylist()


def test_a_full_disk_stops_the_log_but_not_the_predictions(home):
    """The process may not make any file larger (as on a full disk): /predict goes on and says so, /feedback answers 507."""
    with start_service("digits@1", "digits", home=home) as service:
        before = call(service, "POST", "/predict", ROW)[1]["request_id"]
        size = max(path.stat().st_size for path in (home.services / "digits").iterdir())
        unlimited = resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        status, answer, _ = call(service, "POST", "/predict", {"rows": [ROW] * 1000})
        assert (status, answer["logged"], len(answer["predictions"])) == (200, False, 1000)
        got, refused, _ = call(service, "POST", "/feedback", {"request_id": before, "comment": "x" * 4000})
        assert (got, refused["code"]) == (507, "DiskFull")
        assert "lepton_log_failures_total 2" in call(service, "GET", "/metrics")[1]

        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, unlimited)  # space returns
        assert "logged" not in call(service, "POST", "/predict", ROW)[1]
        assert call(service, "POST", "/feedback", {"request_id": before, "label": 4})[0] == 200
        assert call(service, "POST", "/feedback", {"request_id": answer["request_id"], "label": 4})[0] == 404
    assert summary("digits", home)["feedback"] == {"label": 1}


def test_sigterm_answers_what_is_in_flight(home):
    """Fifty requests wait when the signal comes; each is answered, and then the process ends with status 0."""
    service = start_service("digits@1", "digits", home=home)
    results: list[int] = []
    begun = threading.Barrier(21)

    def client():
        import http.client
        import json
        import urllib.parse

        connection = http.client.HTTPConnection(urllib.parse.urlsplit(service.url).netloc, timeout=30)
        body = json.dumps({"rows": [ROW] * 5000})
        connection.putrequest("POST", "/predict")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:1000].encode())
        begun.wait()
        connection.send(body[1000:].encode())
        results.append(connection.getresponse().status)
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(20)]
    for thread in clients:
        thread.start()
    begun.wait()
    call(service, "GET", "/healthz")  # after it, the server has seen the requests that came before
    service.child.send_signal(signal.SIGTERM)
    for thread in clients:
        thread.join()

    assert service.child.wait(30) == 0
    assert results == [200] * 20
    assert len(logged_requests(home)) == 20
    assert not (home.services / "digits" / "service.json").exists()


def test_one_process_per_service_name(home):
    with start_service("digits@1", "digits", home=home), pytest.raises(Unavailable, match="runs already"):
        start_service("digits@1", "digits", home=home)


def test_a_detached_service_is_listed_and_stopped_by_name(home):
    service = start_service("digits@1", "digits", home=home, detach=True)
    try:
        assert [(one.name, one.pid, one.url) for one in running_services(home)] == [
            ("digits", service.pid, service.url)
        ]
        assert os.getsid(service.pid) != os.getsid(0)
    finally:
        assert stop_service("digits", home).pid == service.pid
    assert running_services(home) == []


def test_what_does_not_start_says_why(home):
    with pytest.raises(Unavailable, match=r"there is no model 'digitz'\. Did you mean 'digits'"):
        start_service("digitz", "digits", home=home)
    with start_service("digits@1", "first", home=home) as first, pytest.raises(Unavailable, match="cannot listen on"):
        start_service("digits@1", "second", home=home, port=int(first.url.rpartition(":")[2]))


def test_a_log_that_is_no_log_is_said(home):
    folder = home.services / "broken"
    folder.mkdir(parents=True)
    (folder / "log.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="cannot be read"):
        start_service("digits@1", "broken", home=home)


def test_replicas_of_one_endpoint_hold_a_name_together_and_nobody_else_does(tmp_path):
    from leptonai.base.errors import Conflict
    from leptonai.photon.server import only_process

    with (
        only_process(tmp_path / "s", replica=True),
        only_process(tmp_path / "s", replica=True),
        pytest.raises(Conflict),
    ):
        only_process(tmp_path / "s").__enter__()
    with only_process(tmp_path / "s"), pytest.raises(Conflict):
        only_process(tmp_path / "s", replica=True).__enter__()
