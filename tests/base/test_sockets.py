"""Listening: a taken port and an address that is none are said plainly; workers may share a port."""

import socket

import pytest

from leptonai.base.errors import Conflict, InvalidInput
from leptonai.base.sockets import listen


def test_a_port_that_is_taken_is_a_conflict_that_says_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Conflict, match="Choose another --port"):
            listen("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(Conflict):
            listen("127.0.0.1", taken.getsockname()[1], shared=True)


def test_workers_share_a_port():
    with listen("127.0.0.1", 0, shared=True) as one:
        one.listen()
        port = one.getsockname()[1]
        with listen("127.0.0.1", port, shared=True) as two:
            two.listen()
            with pytest.raises(Conflict):
                listen("127.0.0.1", port)


@pytest.mark.parametrize("host, port", [("no.such.host.invalid", 80), ("127.0.0.1", 70_000)])
def test_an_address_that_is_none_is_wrong_input(host, port):
    with pytest.raises(InvalidInput, match="no address to listen on"):
        listen(host, port)
