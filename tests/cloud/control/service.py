"""A replica for tests of endpoints: answers JSON on $PORT. MODE breaks it: crash, hang, slow, errors, wrong-port, memory, silent."""

import asyncio
import json
import os
import random
import signal
import sys

MODE, DELAY_S = os.environ.get("MODE", ""), float(os.environ.get("DELAY_S", "0.01"))
REPLICA = os.environ.get("LEPTON_REPLICA_ID", "")
open_requests = 0


async def handle(reader, writer):
    global open_requests
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            _, target, _ = head.split("\r\n")[0].split(" ")
            length = next(
                (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
            )
            if length:
                await reader.readexactly(length)
            open_requests += 1
            try:
                await answer(writer, target)
            finally:
                open_requests -= 1
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(writer, target):
    status = 200
    if target.startswith("/healthz"):
        pass
    elif target.startswith("/stream"):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(int(target.rpartition("=")[2])):
            writer.write(b"5\r\npart\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")
        return
    elif MODE == "silent":
        await asyncio.sleep(1000)
    elif MODE == "slow":
        await asyncio.sleep(3 * DELAY_S)
    else:
        await asyncio.sleep(DELAY_S)
        if MODE == "errors" and random.random() < 0.2:
            status = 500
        if MODE == "memory":
            hoard.append(b"x" * (64 << 20))
    text = json.dumps(
        {"replica": REPLICA, "revision": os.environ.get("LEPTON_REVISION"), "text": os.environ.get("TEXT", "")}
    ).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(text), text))


async def main():
    if MODE == "crash":
        sys.exit("it does not want to run")
    if MODE == "hang":
        await asyncio.sleep(1000)
    port = int(os.environ["PORT"]) if MODE != "wrong-port" else 0
    await asyncio.sleep(float(os.environ.get("START_S", "0")))
    server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=500)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()
    while open_requests:
        await asyncio.sleep(0.01)


hoard: list[bytes] = []
asyncio.run(main())
