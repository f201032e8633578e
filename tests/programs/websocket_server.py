"""WebSocket server. Arguments: NAME LOG PORT...; greets with its name, sends back what comes, closes as it is told; notes both ends in LOG."""
import asyncio
import os
import sys

import websockets

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


async def serve(socket):
    say(f"opened user={socket.request_headers.get('x-user', '')}")
    await socket.send(f"hello from {name}")
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await socket.close(int(code), reason)
            else:
                await socket.send(message)
    except websockets.ConnectionClosedError:
        pass  # The code says it.
    say(f"closed {socket.close_code} {socket.close_reason}")


async def main():
    for port in ports:
        await websockets.serve(serve, "0.0.0.0", int(port), max_size=None)
        say(f"listening {port}")
    await asyncio.Future()


asyncio.run(main())
