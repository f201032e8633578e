"""Mail server on aiosmtpd. Arguments: NAME LOG PORT...; greets with its name, notes each mail's size in LOG."""
import asyncio
import os
import sys

from aiosmtpd.smtp import SMTP

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


class Handler:
    async def handle_DATA(self, _server, session, envelope):
        say(f"mail from={envelope.mail_from} peer={session.peer[0]} size={len(envelope.content)}")
        return f"250 kept by {name}"


async def main():
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: SMTP(Handler(), hostname=name, ident="mail"), "0.0.0.0", int(port))
        say(f"listening {port}")
    await asyncio.Future()


asyncio.run(main())
