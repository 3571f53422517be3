"""A model process: loads one model, computes the calls that come over its socket, ends when the socket does.

python -m leptonai.photon.replicas.worker SOCKET INPUTS OUTPUTS       (file descriptors that its server gave it)
"""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import LeptonError
from ...base.home import Home
from .wire import TO_PROCESS, Call, Failure, Load, Ready, Result, Shared, pack, receive, send, unpack


def main() -> None:
    # Stopping is the server's: Ctrl-C reaches the whole group, and what is in flight is to be finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptors = [int(argument) for argument in sys.argv[1:4]]
    connection = socket.socket(fileno=descriptors[0])
    inputs, outputs = Shared(descriptors[1]), Shared(descriptors[2])
    try:
        runtime = _load(connection, outputs)
        while runtime is not None:
            send(connection, _answer(runtime, receive(connection, TO_PROCESS), inputs, outputs))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server has gone


def _load(connection: socket.socket, outputs: Shared) -> Any:
    """The runtime, after it has said so; None if it cannot be loaded (and that was said)."""
    from ..served import load_runtime

    order = receive(connection, TO_PROCESS)
    assert isinstance(order, Load)
    try:
        sample = msgspec.json.decode(order.sample) if order.sample else None
        runtime = load_runtime(order.ref, Home(Path(order.home), order.workspace), sample)
    except LeptonError as error:
        send(connection, Failure(str(error), type(error).__name__))
        return None
    ready = Ready(runtime.kind)
    signature = getattr(runtime, "signature", None)
    if signature is not None:
        ready.signature = msgspec.to_builtins(signature)
        if runtime.example is not None:
            ready.example = pack(runtime.example, outputs)[0]
    send(connection, ready)
    return runtime


def _answer(runtime: Any, call: Call, inputs: Shared, outputs: Shared) -> Result | Failure:
    try:
        found = runtime.run(unpack(call.columns, inputs, call.shared_bytes))
        return Result(*pack(found, outputs))
    except LeptonError as error:
        return Failure(str(error), type(error).__name__)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return Failure("the model failed on this request")


if __name__ == "__main__":
    main()
