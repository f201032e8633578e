"""Puts a WebSocket through its paces. Arguments: URL [HEADER=VALUE]; prints a line for each thing that it saw."""
import asyncio
import os
import sys

import websockets

url = sys.argv[1]
headers = dict(word.split("=") for word in sys.argv[2:])


def connect(**options):
    return websockets.connect(url, extra_headers=headers, max_size=None, **options)


async def main():
    async with connect() as socket:
        print(await socket.recv())
        noise = os.urandom(4 << 20)
        await socket.send(noise)
        print("4 MiB", await socket.recv() == noise)
        await socket.send(noise[:100000][i : i + 1000] for i in range(0, 100000, 1000))
        print("fragments", await socket.recv() == noise[:100000])
        await (await socket.ping(b"marco"))
        print("pong")
        many = [f"message {number}" for number in range(1000)]
        for message in many:
            await socket.send(message)
        print("1000 messages", [await socket.recv() for _ in many] == many)
        await socket.send("close 4321 enough")
        await socket.wait_closed()
        print("server closed", socket.close_code, socket.close_reason)
    socket = await connect(compression=None)
    await socket.recv()
    await socket.close(4000, "bye")
    print("client closed", socket.close_code, socket.close_reason)
    # Gone without a close frame: the server must see that (code 1006).
    socket = await connect(compression=None)
    await socket.recv()
    socket.transport.abort()


asyncio.run(main())
