"""Streams and tunnels: real WebSockets, each direction ending by itself, readers that are slow or leave."""

import asyncio
import os
import socket
import time

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from leptonai.cloud.gateway.table import Access, Replica

from .conftest import TOKEN, rss_bytes, wait_for

AUTH = {"authorization": f"Bearer {TOKEN}"}
UPGRADE = (
    f"HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
).encode()


def tunnel(cloud, path: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", cloud.port), timeout=10)
    connection.sendall(b"GET /ws/echo%b " % path + UPGRADE)
    return connection


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_websockets_pass_both_ways(cloud):
    """The real library on both ends: many small messages, one of five megabytes, the close code."""

    async def echo(connection):
        async for message in connection:
            await connection.send(message)
        await connection.close(4000, "enough")

    async def talk():
        async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            cloud.serve(Replica("sockets", f"127.0.0.1:{port}"))
            url = f"ws://127.0.0.1:{cloud.port}/ws/echo/chat"
            async with connect(url, additional_headers=AUTH, max_size=None) as client:
                echoed = 0
                for number in range(1000):
                    await client.send(f"message {number}")
                    echoed += await client.recv() == f"message {number}"
                large = os.urandom(5 << 20)
                await client.send(large)
                return echoed, await client.recv() == large

    assert asyncio.run(talk()) == (1000, True)
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 0, what="the end of the tunnel")


def test_a_client_that_has_said_all_still_hears_the_answer(cloud):
    cloud.serve(cloud.a)
    with tunnel(cloud, b"/ws") as connection:
        found = b""
        while not found.endswith(b"hello"):
            found += connection.recv(4096)
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"LAST WORDS"


def test_a_replica_that_has_said_all_still_hears_the_client(cloud):
    cloud.serve(cloud.a)
    with tunnel(cloud, b"/half") as connection:
        assert read_all(connection).endswith(b"bye"), "its end is the end of this direction"
        for _ in range(100):
            connection.sendall(bytes(10_000))
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: cloud.a.seen().get("half") == 1_000_000, what="the bytes of the client")
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 0, what="the end of the tunnel")


def test_a_slow_reader_holds_its_replica_back_and_nobody_else(cloud):
    cloud.serve(cloud.a)
    before = rss_bytes(cloud.worker.pid)
    readers = []
    for _ in range(20):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.connect(("127.0.0.1", cloud.port))
        reader.sendall(
            b"GET /ws/echo/bytes?n=100000000 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % TOKEN.encode()
        )
        readers.append(reader)
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 20, what="twenty streams")
    assert all(cloud.call().status_code == 200 for _ in range(50))
    assert rss_bytes(cloud.worker.pid) - before < 20e6, "two gigabytes are asked for; a few buffers are held"
    for reader in readers:
        reader.close()
    wait_for(lambda: cloud.traffic().endpoint("ws/echo").in_flight == 0, what="the end of the streams")


def test_twenty_streams_that_are_left_end_at_the_replica(cloud):
    cloud.serve(cloud.a, access=Access(public=True))
    cut = cloud.a.seen()["cut"]
    connections = [socket.create_connection(("127.0.0.1", cloud.port)) for _ in range(20)]
    for connection in connections:
        connection.sendall(b"GET /ws/echo/stream?n=5000&gap=0.01 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(4096)
    for connection in connections:
        connection.close()
    began = time.monotonic()
    wait_for(lambda: cloud.a.seen()["cut"] == cut + 20, what="the end of the replica's work")
    assert time.monotonic() - began < 5


def test_parts_come_one_by_one_although_the_connection_is_shared(cloud):
    """A hundred parts, each seen before the next is made; the connection is used again after them."""
    cloud.serve(cloud.a)
    with httpx.Client(headers=AUTH) as client:
        for _ in range(2):
            with client.stream("GET", f"{cloud.url}/ws/echo/stream?n=100&gap=0.002") as answer:
                assert answer.headers["content-type"] == "text/event-stream"
                assert len([part for part in answer.iter_raw() if part]) >= 90
