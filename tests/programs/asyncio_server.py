"""Web server on asyncio streams, IPv4 only. Arguments: NAME LOG PORT...; says in LOG where it listens and what it was asked."""
import asyncio
import os
import sys

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


async def serve(reader, writer):
    peer, local = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            say(f"request {method} {path} peer={peer[0]} local={local[1]} body={len(body)} user={fields.get('x-user', '')}")
            text = f"program {name} {method} {path} body={len(body)}\n"
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nX-Program: {name}\r\n\r\n{text}".encode())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main():
    servers = [await asyncio.start_server(serve, "0.0.0.0", int(port)) for port in ports]
    for server in servers:
        say(f"listening {server.sockets[0].getsockname()[1]}")
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
