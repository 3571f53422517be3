"""Who may call what, which replica gets it, how requests wait: on real workers."""

import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.cloud.gateway.limits import SharedLimits
from leptonai.cloud.gateway.routing import Routing, Spread
from leptonai.cloud.gateway.table import (
    Access,
    Endpoint,
    Ingress,
    Key,
    Limits,
    Replica,
    Revision,
    Table,
    Target,
    Token,
    hash_token,
)

from .conftest import TOKEN, wait_for

OPEN = Access(public=True)


def test_every_credential_gets_its_answer(cloud):
    token = Token("t1", hash_token(TOKEN))
    old = Token("t2", hash_token("old"), expires_at=time.time() - 1)
    keys = (
        Key("k1", hash_token("key-of-ws"), workspace="ws"),
        Key("k2", hash_token("key-of-other"), workspace="other"),
        Key("k3", hash_token("expired"), time.time() - 1, workspace="ws"),
    )
    cloud.route(Endpoint("ws", "echo", 1, (Revision("r1", (cloud.a.route,)),), Access(tokens=(token, old))), keys=keys)
    wanted = {
        TOKEN: 200,
        "key-of-ws": 200,
        "old": 401,
        "key-of-other": 401,
        "expired": 401,
        "": 401,
        None: 401,
        "no-such": 401,
    }
    assert {text: cloud.call(token=text).status_code for text in wanted} == wanted
    assert cloud.call(token=None).headers["www-authenticate"] == "Bearer"
    assert cloud.call(token=None, headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    for path in ("/ws/none", "/ws/echo%2f", "/ws/Echo/", "/ws//echo/", "/ws"):
        assert cloud.client.get(cloud.url + path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 404


def test_allow_lists_look_at_the_address_and_trust_only_trusted_proxies(cloud):
    def entry(*allow: str) -> Endpoint:
        return Endpoint("ws", "echo", 1, (Revision("r1", (cloud.a.route,)),), Access(public=True, allow=allow))

    cloud.route(entry("127.0.0.0/8"))
    assert cloud.call().status_code == 200
    cloud.route(entry("10.0.0.0/8"))
    assert cloud.call().status_code == 403
    assert cloud.call(headers={"x-forwarded-for": "10.1.1.1"}).status_code == 403, "anybody can write that"
    cloud.route(entry("10.0.0.0/8"), trusted_proxies=("127.0.0.1",))
    assert cloud.call(headers={"x-forwarded-for": "9.9.9.9, 10.1.1.1"}).status_code == 200
    assert cloud.call(headers={"x-forwarded-for": "10.1.1.1, 9.9.9.9"}).status_code == 403, "the nearest hop counts"


def test_weights_are_kept_to_within_two_requests(cloud):
    b = cloud.replica("b")
    cloud.serve(revisions=(Revision("r1", (cloud.a.route,), 90), Revision("r2", (b.route,), 10)))
    shares = Counter(cloud.call().json()["replica"] for _ in range(100))
    assert abs(shares["b"] - 10) <= 2 and shares.total() == 100
    traffic = cloud.traffic
    wait_for(
        lambda: (
            traffic().endpoint("ws/echo").revisions.get("r2")
            and traffic().endpoint("ws/echo").revisions["r2"].requests == shares["b"]
        )
    )


class Choice:
    def __init__(self, weight: int):
        self.weight = weight


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 5))
def test_every_kth_request_meets_the_shares_too(weights, step):
    """Chi-square of 2,000 requests of a caller that comes each k-th time, against the weights: far below chance."""
    choices, spread = [Choice(weight) for weight in weights], Spread()
    picked = [spread.pick(choices) for _ in range(2000 * step)][::step]
    counts = Counter(map(id, picked))
    expected = [2000 * one.weight / sum(weights) for one in choices]
    assert all(abs(counts[id(one)] - want) <= 12 for one, want in zip(choices, expected, strict=True))
    common = [(counts[id(one)], want) for one, want in zip(choices, expected, strict=True) if want >= 5]
    assert sum((got - want) ** 2 / want for got, want in common) < 20.5, "p = 0.001 with five degrees of freedom"


def test_two_workers_share_a_canary_as_its_weights_say(own_cloud):
    """70/20/10 over two workers and two callers who take turns: chi-square per caller."""
    replicas = [own_cloud.replica(name) for name in "abc"]
    own_cloud.start_worker(own_cloud.port, "w1")
    weights = dict(zip("abc", (70, 20, 10), strict=True))
    own_cloud.serve(
        access=OPEN,
        revisions=tuple(Revision(name, (one.route,), weights[name]) for name, one in zip("abc", replicas, strict=True)),
    )
    wait_for(lambda: {one.table for one in own_cloud.traffic().reports} == {own_cloud.version}, what="both workers")
    found = {"even": Counter(), "odd": Counter()}
    clients = [httpx.Client() for _ in range(8)]  # connections, so that both workers get some
    for number in range(1200):
        answer = clients[number % 8].get(f"{own_cloud.url}/ws/echo/")
        found["odd" if number // 8 % 2 else "even"][answer.json()["replica"]] += 1
    for client in clients:
        client.close()
    for caller, counts in found.items():
        chi_square = sum((counts[name] - 6 * weight) ** 2 / (6 * weight) for name, weight in weights.items())
        print(f"{caller}: {dict(counts)} of 600, chi-square {chi_square:.2f}")
        assert chi_square < 13.8, "p = 0.001 with two degrees of freedom"
    wait_for(lambda: sum(r.requests for r in own_cloud.traffic().endpoint("ws/echo").revisions.values()) == 1200)
    assert all(report.endpoints["ws/echo"].in_flight == 0 for report in own_cloud.traffic().reports)


def test_domains_share_their_requests_and_hosts_name_endpoints(cloud):
    b = cloud.replica("b2")
    one = Endpoint("ws", "one", 1, (Revision("r1", (cloud.a.route,)),), OPEN)
    two = Endpoint("ws", "two", 1, (Revision("r1", (b.route,)),), OPEN)
    ingress = Ingress("App.example.com", "ws", (Target("one", 75), Target("two", 25), Target("gone", 50)))
    cloud.route(one, two, ingresses=(ingress,))
    ask = lambda host: cloud.client.get(cloud.url + "/x", headers={"host": host})  # noqa: E731
    shares = Counter(ask("app.example.com:80").json()["replica"] for _ in range(40))
    assert abs(shares["b2"] - 10) <= 2 and shares.total() == 40
    assert ask("two-ws.lepton.test").json()["target"] == "/x"
    assert ask("none-ws.lepton.test").status_code == 404


def test_a_host_name_that_two_tenants_could_mean_is_nobodys():
    routing = Routing()
    routing.apply(Table(endpoints=(Endpoint("c", "a-b"), Endpoint("b-c", "a"), Endpoint("c", "z"))))
    assert routing.find(b"a-b-c.lepton.test", b"/") == (None, b"/")
    assert routing.find(b"z-c.lepton.test", b"/")[0].key == "c/z"


def test_the_least_busy_replica_gets_the_next_request(cloud):
    b = cloud.replica("b3")
    cloud.serve(cloud.a, b)
    threads = [threading.Thread(target=cloud.call, args=("/sleep?s=1.5",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").replicas == {"a": 2, "b3": 2}, what="two at each")
    for thread in threads:
        thread.join()
    wait_for(lambda: set(cloud.traffic().endpoint("ws/echo").replicas.values()) == {0}, what="the end of them")


def test_a_request_can_name_its_replica(cloud):
    b = cloud.replica("b4")
    cloud.serve(cloud.a, b, header_routing=True)
    names = {cloud.call(headers={"x-lepton-replica-target": "b4"}).json()["replica"] for _ in range(6)}
    assert names == {"b4"}
    assert cloud.call(headers={"x-lepton-replica-target": "none"}).status_code == 404
    cloud.serve(cloud.a, b)
    assert len({cloud.call(headers={"x-lepton-replica-target": "b4"}).json()["replica"] for _ in range(6)}) == 2


def test_sticky_callers_stay_at_one_replica(cloud):
    b = cloud.replica("b5")
    cloud.serve(cloud.a, b, balance="sticky")
    assert len({cloud.call().json()["replica"] for _ in range(10)}) == 1


def test_requests_wait_for_a_replica_and_a_draining_one_gets_none(cloud):
    cloud.serve(limits=Limits(hold_s=10))
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(cloud.call("/", "POST", content=b"x" * 200_000)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").held == 10, what="ten requests in line")
    cloud.serve(Replica("d", "127.0.0.1:1", draining=True), cloud.a)
    for thread in threads:
        thread.join()
    assert [(one.status_code, one.json()["replica"], len(one.json()["body"])) for one in answers] == [
        (200, "a", 200_000)
    ] * 10


def test_waiting_has_its_bounds(cloud):
    cloud.serve(limits=Limits(hold_s=0))
    assert cloud.call().status_code == 503
    cloud.serve(limits=Limits(hold_s=1, held=2))
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append((cloud.call().status_code, time.monotonic()))) for _ in range(5)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in statuses] == [503] * 5
    assert sum(at - began > 0.9 for _, at in statuses) == 2, "two waited, three were sent away at once"


def test_one_at_a_time_where_that_is_wanted(cloud):
    cloud.serve(cloud.a, limits=Limits(concurrency=1, hold_s=20))
    peak = 0
    threads = [threading.Thread(target=cloud.call, args=("/sleep?s=0.2",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, sum(cloud.traffic().endpoint("ws/echo").replicas.values()))
        time.sleep(0.02)
    assert peak == 1


def test_a_caller_has_its_requests_per_minute(cloud):
    cloud.serve(cloud.a, limits=Limits(requests_per_minute=30))
    statuses = Counter(cloud.call().status_code for _ in range(12))
    assert statuses[200] == 5 and statuses[429] == 7
    answer = cloud.call()
    assert 1 <= int(answer.headers["retry-after"]) <= 3


def test_limits_are_shared_and_exact(tmp_path):
    now = [100.0]
    one, two = (SharedLimits(tmp_path / "limits", lambda: now[0]) for _ in range(2))
    taken = sum(limits.take("caller", 600) == 0 for _ in range(200) for limits in (one, two))
    assert taken == 100, "ten seconds' worth, whichever worker it asks"
    now[0] += 1
    assert sum(one.take("caller", 600) == 0 for _ in range(50)) == 10
    assert one.take("another", 600) == 0
    now[0] = 5.0  # the machine was started again: old moments mean nothing
    assert one.take("caller", 600) == 0


@given(st.integers(12_000, 1_000_000), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50)), max_size=60))
def test_what_workers_take_ahead_is_never_more_than_there_is(per_minute, turns):
    """Bursts at two workers, each followed by a pause (ms): in all at most ten seconds' worth and what came in meanwhile."""
    now = [100.0]
    with tempfile.TemporaryDirectory() as folder:
        workers = [SharedLimits(Path(folder) / "limits", lambda: now[0]) for _ in range(2)]
        passed = 0
        for worker, pause_ms in turns:
            for _ in range(per_minute // 200):
                passed += workers[worker].take("caller", per_minute) == 0
            now[0] += pause_ms / 1000
        most = per_minute / 6 + per_minute / 60 * (now[0] - 100)
        asked = len(turns) * (per_minute // 200)
        assert passed <= most + 1
        lost = 2 * (per_minute / 6000) * (len(turns) + 1)  # claims that ran out unused
        assert passed >= min(asked, most - lost) - 1
        for one in workers:
            one.close()


@pytest.mark.parametrize("path", ["/api/v2/workspaces/ws", "/", "/workspace/ws/compute", "/other/thing"])
def test_everything_else_is_the_planes(cloud, path):
    cloud.route(Endpoint("ws", "echo", 1, (Revision("r1", (cloud.a.route,)),), OPEN), plane=cloud.a.route.address)
    answer = cloud.client.get(cloud.url + path, headers={"authorization": "Bearer a-key"})
    assert answer.json()["target"] == path
    assert ["authorization", "Bearer a-key"] in answer.json()["headers"], "the plane checks keys itself"
