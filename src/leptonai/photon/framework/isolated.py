"""A handler in a process of its own, for work that only a kill can stop. The pipe carries JSON, nothing that can hold code.

The child imports the photon's class by its file, runs `init` there and answers one call at a time; a call that is cancelled (time-out,
client gone) kills it, and the next call starts another.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import struct
import sys
from typing import Any

from ...base.errors import InvalidInput, LeptonError
from .results import Plain

_HEAD = struct.Struct("<IH")


class Isolated:
    def __init__(self, photon_class: type, method: str):
        source = inspect.getsourcefile(photon_class)
        if source is None or "<locals>" in photon_class.__qualname__:
            raise InvalidInput(
                f"{method} cannot be isolated: {photon_class.__qualname__} is not a class of a module that has a file"
            )
        spec = getattr(sys.modules.get(photon_class.__module__), "__spec__", None)
        # A module of a package imports its neighbours by its name; any other file is imported by its path.
        where = spec.name if spec is not None and "." in spec.name else source
        self.command = (sys.executable, "-m", __name__, where, photon_class.__qualname__, method)
        self.process: asyncio.subprocess.Process | None = None
        self.lock = asyncio.Lock()

    async def call(self, **arguments: Any) -> Plain:
        """The answer that the method's result becomes, made in the child. Raises LeptonError if the child dies."""
        import msgspec

        async with self.lock:
            process = await self._running()
            body = msgspec.json.encode(arguments)
            finished = False
            try:
                process.stdin.write(struct.pack("<I", len(body)) + body)  # type: ignore[union-attr]
                await process.stdin.drain()  # type: ignore[union-attr]
                size, status = _HEAD.unpack(await process.stdout.readexactly(_HEAD.size))  # type: ignore[union-attr]
                kind, _, content = (await process.stdout.readexactly(size)).partition(b"\0")  # type: ignore[union-attr]
                finished = True
            except (asyncio.IncompleteReadError, ConnectionError):
                raise LeptonError(
                    "the handler's process died", fix="The server's log may say why; send the request again."
                ) from None
            finally:
                if not finished:
                    await self._kill()
        return Plain(status, content, kind)

    async def _running(self) -> asyncio.subprocess.Process:
        if self.process is None or self.process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=pipe, stdout=pipe, limit=1 << 20, env=environment
            )
        return self.process

    async def _kill(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())  # the slot is free when the work has ended

    def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


def _serve(source: str, class_name: str, method: str) -> None:
    """The child: one call after another from stdin, until it closes. What the handler prints goes to stderr."""
    import importlib
    from pathlib import Path

    from .arguments import Arguments
    from .handler import plain_function
    from .results import answer_of, failure, response_class_of
    from .source import class_of, import_file

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    photon = class_of(
        import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source), class_name
    )()
    photon._call_init_once()
    function = plain_function(type(photon), method)
    arguments = Arguments(function)
    response_class = response_class_of(arguments.result)
    while len(head := requests.read(4)) == 4:
        values = json.loads(requests.read(struct.unpack("<I", head)[0]))
        try:
            result = function(photon, **arguments.from_values(values, "body"))
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            answer = answer_of(result, response_class)
            if type(answer) is not Plain:
                raise TypeError("an isolated handler gives plain data, bytes or None, not a response object")
        except Exception as error:
            answer = failure(error)
        kind = next((value for name, value in answer.head["headers"] if name == b"content-type"), b"")
        answers.write(_HEAD.pack(len(kind) + 1 + len(answer.body), answer.status) + kind + b"\0" + answer.body)
        answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
