"""The worker's own TLS: requests, streams and WebSockets as without it, and the replica hears that the client came by https."""

import asyncio
import datetime
import ipaddress
import socket
import ssl

import httpx
import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from leptonai.cloud.gateway.table import Replica

from .conftest import TOKEN, Cloud

AUTH = {"authorization": f"Bearer {TOKEN}"}


def certificate(folder):
    """A key, and a certificate for 127.0.0.1 that it signs itself; the paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secure(tmp_path):
    cert, key = certificate(tmp_path)
    cloud = Cloud(tmp_path / "cloud", start=False)
    cloud.start_worker(0, "w0", "--certificate", str(cert), "--key", str(key))
    cloud.trust = ssl.create_default_context(cafile=str(cert))
    yield cloud
    cloud.close()


def test_requests_streams_and_large_bodies_pass(secure):
    secure.serve(secure.replica("a"))
    with httpx.Client(verify=secure.trust, headers=AUTH, base_url=f"https://127.0.0.1:{secure.port}/ws/echo") as client:
        headers = {name.lower(): value for name, value in client.get("/").json()["headers"]}
        assert headers["x-forwarded-proto"] == "https"
        assert len(client.post("/", content=b"x" * 500_000).json()["body"]) == 500_000
        with client.stream("GET", "/stream?n=5&gap=0.01") as answer:
            assert [part for part in answer.iter_text() if part] == [f"data: {number}\n\n" for number in range(5)]
        assert len(client.get("/bytes?n=5000000").content) == 5_000_000


def test_websockets_pass(secure):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def talk():
        async with serve(echo, "127.0.0.1", 0) as server:
            secure.serve(Replica("sockets", f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            url = f"wss://127.0.0.1:{secure.port}/ws/echo/"
            async with connect(url, ssl=secure.trust, additional_headers=AUTH) as client:
                for number in range(100):
                    await client.send(str(number))
                    assert await client.recv() == str(number)

    asyncio.run(talk())


def test_what_is_not_tls_gets_no_answer(secure):
    secure.serve(secure.replica("a"))
    assert secure.raw(b"GET /ws/echo/ HTTP/1.1\r\nhost: x\r\n\r\n") == b""


@pytest.mark.slow
def test_a_handshake_that_never_ends_is_cut(secure):
    """Three half handshakes: closed within the time for a head; others are served meanwhile."""
    secure.serve(secure.replica("a"))
    slow = [socket.create_connection(("127.0.0.1", secure.port), timeout=20) for _ in range(3)]
    for connection in slow:
        connection.sendall(b"\x16\x03\x01")
    with httpx.Client(verify=secure.trust, headers=AUTH) as client:
        assert client.get(f"https://127.0.0.1:{secure.port}/ws/echo/").status_code == 200
    assert [connection.recv(100) for connection in slow] == [b""] * 3
    for connection in slow:
        connection.close()
