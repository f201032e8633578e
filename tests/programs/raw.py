"""TCP server that greets first and then sends back what comes. Arguments: NAME LOG PORT...; notes connections and their bytes in LOG."""
import os
import socketserver
import sys
import threading

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        say(f"connection peer={self.client_address[0]} local={self.request.getsockname()[1]}")
        self.request.sendall(f"hello from program {name}\n".encode())
        while data := self.request.recv(65536):
            say(f"received {data.hex()}")
            self.request.sendall(data)
        say("end")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


servers = [Server(("0.0.0.0", int(port)), Handler) for port in ports]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"listening {server.server_address[1]}")
threading.Event().wait()
