"""gRPC server on grpcio. Arguments: NAME LOG PORT...; messages are bare bytes. Notes each call, and each that was cancelled, in LOG."""
import asyncio
import os
import sys

import grpc

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
servers = []


def say(line):
    os.write(log, (line + "\n").encode())


def note(context, method):
    user = dict(context.invocation_metadata()).get("x-user", "")
    say(f"call {method} user={user}")
    context.set_trailing_metadata((("who", name), ("binary-bin", b"\0\xff")))


async def unary(request, context):
    note(context, "Unary")
    await context.send_initial_metadata((("early", name),))
    return name.encode() + b" " + request


async def echo(request, context):
    note(context, "Echo")
    return request


async def count(request, context):
    note(context, "Count")
    for number in range(int(request)):
        yield f"{name} {number}".encode()


async def add(requests, context):
    note(context, "Sum")
    return f"{name} {sum([int(request) async for request in requests])}".encode()


async def chat(requests, context):
    note(context, "Chat")
    async for request in requests:
        yield name.encode() + b" " + request


async def flood(_, context):
    note(context, "Flood")
    while True:
        yield bytes(1 << 20)


async def fail(_, context):
    note(context, "Fail")
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no: {name} ü\n%")


async def sleep(_, context):
    note(context, "Sleep")
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        say("cancelled Sleep")
        raise


async def stop(_, context):
    note(context, "Stop")
    for server in servers:
        asyncio.get_running_loop().create_task(server.stop(20))
    return name.encode()


async def main():
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Sum": grpc.stream_unary_rpc_method_handler(add),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Flood": grpc.unary_stream_rpc_method_handler(flood),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Stop": grpc.unary_unary_rpc_method_handler(stop),
    }
    for port in ports:
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        server.add_insecure_port(f"0.0.0.0:{port}")
        await server.start()
        servers.append(server)
        say(f"listening {port}")
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


asyncio.run(main())
