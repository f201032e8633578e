"""gRPC client on grpcio for grpc_server.py. Arguments: ADDRESS SCENARIO [USER | NAME=VALUE]; prints a line for each thing that it saw."""
import asyncio
import os
import sys
import time

import grpc

address, scenario = sys.argv[1:3]
ME = (("x-user", "me"),)
metadata = tuple(tuple(word.split("=", 1)) if "=" in word else ("x-user", word) for word in sys.argv[3:])


def call(channel, kind, method, *arguments, **options):
    """One call; `kind` as in grpc: unary_unary, …"""
    return getattr(channel, kind)(f"/t.T/{method}")(*arguments, **{"metadata": metadata, **options})


async def lines(words):
    for word in words:
        yield word


def pairs(metadata):
    return {key: value for key, value in metadata}


async def status(call):
    return f"{(await call.code()).name} {await call.details()!r} {pairs(await call.trailing_metadata())}"


async def every_kind(channel):
    unary = call(channel, "unary_unary", "Unary", b"hello")
    print(await unary, pairs(await unary.initial_metadata()), await status(unary))
    counted = call(channel, "unary_stream", "Count", b"1000")
    got = [message async for message in counted]
    print(len(got), got[-1], await status(counted))
    nothing = call(channel, "unary_stream", "Count", b"0")
    print([message async for message in nothing], await status(nothing))
    added = call(channel, "stream_unary", "Sum", lines(b"%d" % number for number in range(1000)))
    print(await added, await status(added))
    chat = call(channel, "stream_stream", "Chat")
    for number in range(50):
        await chat.write(b"%d" % number)
        answer = await chat.read()
    await chat.done_writing()
    print(answer, await chat.read() == grpc.aio.EOF, await status(chat))
    noise = os.urandom(16 << 20)
    print("16 MiB", await call(channel, "unary_unary", "Echo", noise) == noise)
    for method in ["Fail", "Missing"]:
        failed = call(channel, "unary_unary", method, b"")
        try:
            await failed
        except grpc.aio.AioRpcError:
            print(await status(failed))
    start = time.monotonic()
    try:
        await call(channel, "unary_unary", "Sleep", b"", timeout=0.3)
    except grpc.aio.AioRpcError as error:
        print(error.code().name, 0.2 < time.monotonic() - start < 3)
    cancelled = call(channel, "unary_unary", "Sleep", b"")
    # Long enough to be with the server, which says nothing before its answer.
    await asyncio.sleep(0.5)
    print(cancelled.cancel(), (await cancelled.code()).name)


async def few(channel):
    # Small messages of each kind, also such that are only sent once the one before was answered.
    unary = call(channel, "unary_unary", "Unary", b"hello")
    print(await unary, pairs(await unary.initial_metadata()), await status(unary))
    counted = call(channel, "unary_stream", "Count", b"100")
    got = [message async for message in counted]
    print(len(got), got[-1], await status(counted))
    added = call(channel, "stream_unary", "Sum", lines(b"%d" % number for number in range(100)))
    print(await added, await status(added))
    chat = call(channel, "stream_stream", "Chat")
    for number in range(50):
        await chat.write(b"%d" % number)
        answer = await chat.read()
    await chat.done_writing()
    print(answer, await chat.read() == grpc.aio.EOF, await status(chat))
    failed = call(channel, "unary_unary", "Missing", b"")
    try:
        await failed
    except grpc.aio.AioRpcError:
        print(await status(failed), pairs(await failed.initial_metadata()))


async def thousand(channel):
    # All of them open at once: none ends before the last has been answered.
    users = [ME if number % 2 else () for number in range(1000)]
    chats = [call(channel, "stream_stream", "Chat", metadata=user) for user in users]

    async def first(chat):
        await chat.write(b"1")
        return await chat.read()

    answers = await asyncio.gather(*(first(chat) for chat in chats))
    await asyncio.gather(*(chat.done_writing() for chat in chats))
    codes = await asyncio.gather(*(chat.code() for chat in chats))
    print([answers[number::2].count(who) for number in range(2) for who in (b"pod 1", b"one 1")], codes.count(grpc.StatusCode.OK))


async def stalled(channel):
    # Streams whose reader has stopped, on the very connection on which the others must go on.
    floods = [call(channel, "unary_stream", "Flood", b"", metadata=user) for user in (ME, ()) for _ in range(20)]
    sizes = await asyncio.gather(*(flood.read() for flood in floods))
    slowest = 0
    for number in range(100):
        start = time.monotonic()
        mine = await call(channel, "unary_unary", "Unary", b"x", metadata=ME)
        others = await call(channel, "unary_unary", "Unary", b"x")
        slowest = max(slowest, time.monotonic() - start)
    print(len(sizes), mine, others, f"slowest below 1 s: {slowest < 1}")
    for flood in floods:
        flood.cancel()


async def stop(channel):
    # A call that is open when its server is stopped goes on to its own end; a new one finds nobody.
    chat = call(channel, "stream_stream", "Chat")
    await chat.write(b"before")
    print(await chat.read())
    print(await call(channel, "unary_unary", "Stop", b""))
    if metadata:
        # Only the session's program stops, which the client's connection outlives: the pod is asked instead.
        # What reaches the program in the moment of its stop it may still refuse.
        answer = b""
        while not answer.startswith(b"pod"):
            try:
                answer = await call(channel, "unary_unary", "Unary", b"")
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
    else:
        # The server says GOAWAY: the channel leaves the connection, and finds no other.
        while (state := channel.get_state()) == grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
    for number in range(10):
        await chat.write(b"after")
        answer = await chat.read()
    await chat.done_writing()
    print(answer, await chat.read() == grpc.aio.EOF, await status(chat))
    try:
        print(await call(channel, "unary_unary", "Unary", b"new"))
    except grpc.aio.AioRpcError as error:
        print(error.code().name)


async def main():
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        scenarios = {"every-kind": every_kind, "few": few, "thousand": thousand, "stalled": stalled, "stop": stop}
        await asyncio.wait_for(scenarios[scenario](channel), 40)


asyncio.run(main())
