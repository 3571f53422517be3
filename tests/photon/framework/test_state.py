"""KV, Queue and ObjectStore on this machine: durable, one receiver a message, bounds."""

import io
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from leptonai.base.errors import Conflict, InvalidInput, LeptonError, NotFound
from leptonai.kv import KV
from leptonai.objectstore import ObjectStore, PublicObjectStore
from leptonai.queue import Empty, Queue


def test_kv():
    kv = KV("store")
    kv.put("a/b", "text")
    kv["é ü"] = b"\x00\xff"
    assert (kv.get("a/b"), kv["é ü"]) == (b"text", b"\x00\xff")
    kv.put("a/b", "newer")
    assert KV("store")["a/b"] == b"newer"
    kv.delete("a/b")
    kv.delete("a/b")
    with pytest.raises(KeyError):
        kv.get("a/b")
    for number in range(25):
        kv.put(f"p/{number:02}", b"")
    seen, cursor = [], 0
    while True:
        page = kv.keys(cursor=cursor, limit=10, prefix="p/")
        seen += page["keys"]
        cursor = page["cursor"]
        if not cursor:
            break
    assert seen == [f"p/{number:02}" for number in range(25)]
    assert kv.keys(prefix="p%")["keys"] == []


def test_kv_bounds_and_names():
    kv = KV("store")
    kv.put("k" * 256, bytes(256 * 1024))
    for key, value in (("k" * 257, b""), ("", b""), ("k", bytes(256 * 1024 + 1))):
        with pytest.raises(ValueError):
            kv.put(key, value)
    with pytest.raises(Conflict):
        KV.create_kv("store")
    with pytest.raises(NotFound):
        KV.get_kv("other")
    with pytest.raises(InvalidInput):
        KV("../x")
    KV.delete_kv("store")
    assert KV.list_kv() == []
    with pytest.raises(NotFound):
        kv.put("a", "b")


def test_queue_in_order_once_and_without_repeats():
    queue = Queue("work")
    for text in ("one", "two", "one", "three"):
        queue.send(text)
    assert queue.length() == 3
    assert [queue.receive() for _ in range(3)] == ["one", "two", "three"]
    queue.send("two")  # within the window, received or not
    with pytest.raises(Empty):
        queue.receive()
    with pytest.raises(ValueError):
        queue.send(b"bytes")
    Queue.delete_queue("work")
    assert Queue.list_queue() == []


def test_the_window_of_equal_messages_ends(monkeypatch):
    queue = Queue("work")
    queue.send("one")
    monkeypatch.setattr("leptonai.state.queue.DEDUP_S", -1.0)
    queue.send("one")
    assert queue.length() == 2


def take(home, count):
    os.environ["LEPTON_HOME"] = home
    queue, mine = Queue("shared"), []
    while True:
        try:
            mine.append(queue.receive())
        except Empty:
            return mine


def test_every_message_has_exactly_one_receiver_among_processes():
    queue = Queue("shared")
    for number in range(100):
        queue.send(str(number))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(take, [(os.environ["LEPTON_HOME"], n) for n in range(2)])
    assert sorted(int(one) for some in found for one in some) == list(range(100))


def test_what_was_sent_survives_a_kill():
    code = "import os; from leptonai.queue import Queue; from leptonai.kv import KV; Queue('q').send('kept'); KV('s').put('a','kept'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert Queue("q").receive() == "kept"
    assert KV("s").get("a") == b"kept"


def test_new_stores_from_many_threads():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: KV("one").put(str(n), str(n)), range(16)))
    assert len(KV("one").keys()["keys"]) == 16


def test_objects(tmp_path):
    store = ObjectStore("private")
    store.put("a/b.bin", io.BytesIO(b"123"))
    (tmp_path / "file").write_bytes(b"4567")
    store.put("c", str(tmp_path / "file"))
    assert store.get("a/b.bin").read() == b"123"
    assert [(one["key"], one["size"]) for one in store.list_objects()] == [("a/b.bin", 3), ("c", 4)]
    assert [one["key"] for one in store.list_objects("a/")] == ["a/b.bin"]
    assert PublicObjectStore().list_objects() == []
    store.delete("c")
    with pytest.raises(NotFound):
        store.get("c")


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".hidden", "a/", "x\0y"])
def test_s25_keys_stay_in_their_folder(key):
    with pytest.raises((LeptonError, ValueError)):
        ObjectStore().put(key, b"x")
