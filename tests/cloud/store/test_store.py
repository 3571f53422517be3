"""Resources, changes, events, idempotency, leases: the same on SQLite and PostgreSQL."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from leptonai.base.errors import Conflict, InvalidInput, NotFound
from leptonai.cloud.store import Actor, Store

ANN = Actor("ann", "w", "developer", ("*",), "k1")


def make(store, name, workspace="w", spec=None, **options):
    with store.transaction(actor=ANN) as tx:
        return tx.create("endpoint", workspace, name, spec or {"a": 1}, **options)


def test_the_migrated_tables_are_the_tables_of_the_code(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from leptonai.cloud.store.tables import metadata

    with store.connection() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_two_processes_that_open_a_new_database_at_once_migrate_it_once(url):
    stores = []
    threads = [threading.Thread(target=lambda: stores.append(Store(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4
    for store in stores:
        assert store.position() == 0
        store.close()


def test_a_name_is_taken_while_its_owner_lives_and_free_at_once_when_deleted(store):
    first = make(store, "web")
    with pytest.raises(Conflict, match="taken"):
        make(store, "web")
    make(store, "web", workspace="other")
    with store.transaction() as tx:
        tx.mark_deleted(first)
    second = make(store, "web")
    with store.reading() as tx:
        assert tx.get("endpoint", "w", "web").uid == second.uid
        assert tx.by_uid(first.uid).deleted_at is not None
        assert [one.uid for one in tx.list("endpoint", "w")] == [second.uid]


def test_a_stale_write_is_refused_and_changes_nothing(store):
    old = make(store, "web")
    with store.transaction() as tx:
        tx.set_status(old, {"state": "Ready"})
    with pytest.raises(Conflict, match="has changed"), store.transaction(actor=ANN) as tx:
        tx.event(old, "Normal", "Lost", "this must not stay")
        tx.set_spec(old, {"a": 2})
    with store.reading() as tx:
        now = tx.get("endpoint", "w", "web")
        assert (now.spec, now.status, now.version, now.generation) == ({"a": 1}, {"state": "Ready"}, 2, 1)
        assert tx.events(now) == []


def test_of_many_writers_at_once_every_increment_is_kept(store):
    make(store, "counter", spec={"n": 0})
    failures = []

    def add() -> None:
        for _ in range(10):
            while True:
                try:
                    with store.transaction() as tx:
                        found = tx.get("endpoint", "w", "counter", lock=True)
                        tx.set_spec(found, {"n": found.spec["n"] + 1})
                    break
                except Conflict:
                    continue
                except Exception as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as tx:
        found = tx.get("endpoint", "w", "counter")
    assert (failures, found.spec["n"], found.generation) == ([], 60, 61)


def test_changes_come_in_the_order_of_commits_and_none_is_missed(store):
    seen, stop = {}, threading.Event()

    def watch() -> None:
        position = 0
        while not (stop.is_set() and position >= store.position()):
            store.wait(position, 0.2)
            rows, position = store.changes(position)
            seen.update({row.name: row.position for row in rows})

    watcher = threading.Thread(target=watch)
    watcher.start()
    makers = [threading.Thread(target=lambda k=k: [make(store, f"r{k}-{i}") for i in range(15)]) for k in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    stop.set()
    watcher.join(20)
    assert len(seen) == 60 and sorted(seen.values()) == list(range(1, 61))


def test_pages_follow_each_other_and_filters_hold(store):
    for number in range(7):
        make(store, f"r{number}", labels={"team": "a" if number % 2 else "b"}, status={"state": "Ready"})
    with store.reading() as tx:
        first = tx.list("endpoint", "w", limit=4)
        second = tx.list("endpoint", "w", limit=4, after=first[-1].name)
        assert [one.name for one in first + second] == [f"r{n}" for n in range(7)]
        assert [one.name for one in tx.list("endpoint", "w", labels={"team": "a"})] == ["r1", "r3", "r5"]
        assert len(tx.list("endpoint", "w", states=["rea"], created_by=["AN"])) == 7
        assert tx.list("endpoint", "w", states=["run"]) == [] and tx.list("endpoint", "w", search="%") == []
        assert tx.list("endpoint", "elsewhere") == []


@pytest.mark.parametrize("text", ["'; DROP TABLE resources; --", "%_\\", '"team"', "x' OR '1'='1"])
def test_text_of_callers_never_becomes_sql(store, text):
    make(store, "web")
    with store.reading() as tx:
        assert (
            tx.list("endpoint", "w", search=text, labels={text: text}, states=[text], created_by=[text], after=text)
            == []
        )
        with pytest.raises(NotFound):
            tx.get("endpoint", text, text)
        assert tx.count("endpoint", "w") == 1


def test_equal_events_are_counted_and_a_purge_takes_them_along(store):
    web = make(store, "web")
    with store.transaction() as tx:
        for _ in range(3):
            tx.event(web, "Warning", "Crash", "exit 1")
        tx.event(web, "Normal", "Ready")
    with store.reading() as tx:
        assert [(row.reason, row.count) for row in tx.events(web)] == [("Crash", 3), ("Ready", 1)]
        assert [(row.actor, row.action, row.kind) for row in tx.audit_log("w")] == [("ann", "create", "endpoint")]
    with store.transaction() as tx:
        tx.purge(web)
    with store.reading() as tx:
        assert tx.events(web) == [] and tx.by_uid(web.uid) is None and len(tx.audit_log("w")) == 1


def test_audit_names_the_fields_of_a_change_and_never_their_values(store):
    web = make(store, "web", spec={"password": "hunter2"})
    with store.transaction(actor=ANN, request_id="r-1") as tx:
        tx.set_spec(web, {"password": "hunter3"})
    with store.reading() as tx:
        newest = tx.audit_log("w")[0]
    assert newest.detail == {"spec": ["password"]} and newest.request_id == "r-1"


def test_a_lease_has_one_holder_and_fences_off_the_one_before(store):
    first = store.lease("loop", "a", 30)
    assert store.lease("loop", "b", 30) is None
    assert store.lease("loop", "a", 30).token == first.token and first.renew()
    first.release()
    second = store.lease("loop", "b", 30)
    assert second.token > first.token and not first.renew()
    with pytest.raises(Conflict, match="lease"), store.transaction(lease=first) as tx:
        tx.create("endpoint", "w", "late", {})
    with store.transaction(lease=second) as tx:
        tx.create("endpoint", "w", "in-time", {})
    with store.reading() as tx:
        assert [one.name for one in tx.list("endpoint", "w")] == ["in-time"]


def test_a_lease_that_is_not_renewed_passes_on(store):
    assert store.lease("loop", "a", 0.2)
    deadline = time.monotonic() + 10
    while store.lease("loop", "b", 30) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


WRITER = """
import sys
from leptonai.cloud.store import Store
store = Store(sys.argv[1])
for number in range(100_000):
    with store.transaction() as tx:
        resource = tx.create("endpoint", "w", f"r{number:06d}", {"number": number})
        tx.event(resource, "Normal", "Made")
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_sigkill_whole(url):
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
        lines = [child.stdout.readline() for _ in range(15)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        store = Store(url)
        with store.reading() as tx:
            found = tx.list("endpoint", "w")
            assert len(found) >= len([line for line in lines if line.endswith("\n")])
            assert all(len(tx.events(one)) == 1 for one in found)
            assert sorted(one.position for one in found) == list(range(1, len(found) + 1))
        with store.connection() as connection:
            for table in ("events", "resources"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
            connection.exec_driver_sql("UPDATE clock SET position = 0")
        store.close()


@pytest.mark.parametrize("bad", ["nonsense", "mysql://x", "sqlite://", "sqlite:///:memory:"])
def test_a_database_that_cannot_be_meant_is_refused_without_its_password(bad):
    with pytest.raises(InvalidInput):
        Store(bad)
    with pytest.raises(InvalidInput) as caught:
        Store("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)
