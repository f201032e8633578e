"""Answers with the client's address and its own; a request line "QUIT" closes the listener."""
import asyncio
import sys


async def main():
    async def serve(reader, writer):
        line = await reader.readline()
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        writer.write(f"client={peer[0]}:{peer[1]} own={own[0]}:{own[1]}\n".encode())
        await writer.drain()
        writer.close()
        if line.startswith(b"QUIT"):
            server.close()

    server = await asyncio.start_server(serve, None, int(sys.argv[1]))
    print("bound", sorted(socket.getsockname()[:2] for socket in server.sockets), flush=True)
    await asyncio.sleep(120)


asyncio.run(main())
