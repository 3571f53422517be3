"""A replica for tests, as a process: plain sockets, so that it can also answer wrongly. `python replica.py ID [PORT]` prints its port."""

import asyncio
import json
import signal
import sys
from urllib.parse import parse_qs, urlsplit

seen = {"requests": 0, "cut": 0, "open": 0}


async def read_body(reader, headers):
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body
    return await reader.readexactly(int(headers.get("content-length", 0)))


async def handle(reader, writer, name):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head[:-4].split("\r\n")
            method, target, _ = first.split(" ")
            pairs = [line.split(": ", 1) for line in lines]
            headers = {key.lower(): value for key, value in pairs}
            seen["requests"] += 1
            seen["open"] += 1
            try:
                if not await answer(reader, writer, name, method, target, headers, pairs):
                    break
            finally:
                seen["open"] -= 1
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(reader, writer, name, method, target, headers, pairs):
    url = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    if url.path == "/early":
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge")
        return False
    if url.path == "/ws":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
        while data := await reader.read(4096):
            writer.write(data.upper())
        return False
    if url.path == "/unread":  # takes the head and never the body
        await asyncio.sleep(float(query["s"]))
        return False
    if url.path == "/half":  # ends its own direction first, then listens to the end
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nbye")
        writer.write_eof()
        seen["half"] = len(await reader.read(-1))
        return False
    body = await read_body(reader, headers)
    if url.path == "/raw":
        writer.write(body)
        await writer.drain()
        return "keep" in query
    if url.path == "/die":
        return False
    if url.path == "/sleep":
        await asyncio.sleep(float(query["s"]))
    if url.path == "/stream":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            for number in range(int(query["n"])):
                text = b"data: %d\n\n" % number
                writer.write(b"%x\r\n%b\r\n" % (len(text), text))
                await writer.drain()
                await asyncio.sleep(float(query["gap"]))
        except ConnectionError:
            seen["cut"] += 1
            raise
        writer.write(b"0\r\n\r\n")
        return True
    if url.path == "/until-close":
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall that there is")
        return False
    if url.path == "/bytes":
        count = int(query["n"])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % count)
        while count:
            part = min(count, 1 << 16)
            writer.write(bytes(part))
            await writer.drain()
            count -= part
        return True
    status = query.get("status", "200")
    text = json.dumps(
        seen
        if url.path == "/seen"
        else {"replica": name, "method": method, "target": target, "headers": pairs, "body": body.decode("latin-1")}
    )
    writer.write(f"HTTP/1.1 {status} X\r\nx-replica: {name}\r\ncontent-length: {len(text)}\r\n\r\n".encode())
    if method != "HEAD":
        writer.write(text.encode())
    return True


async def main():
    name, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    server = await asyncio.start_server(
        lambda reader, writer: handle(reader, writer, name), "127.0.0.1", port, backlog=500
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    while seen["open"]:
        await asyncio.sleep(0.01)


asyncio.run(main())
