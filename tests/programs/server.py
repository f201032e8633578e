"""Web server on http.server. Arguments: NAME LOG PORT...; says in LOG where it listens and what it was asked."""
import http.server
import os
import signal
import socket
import sys
import threading

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.read_body()
        peer, local = self.client_address, self.connection.getsockname()
        say(f"request {self.command} {self.path} peer={peer[0]} local={local[1]} body={len(body)} user={self.headers.get('x-user', '')}")
        text = f"program {name} {self.command} {self.path} body={len(body)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Program", name)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 512

    def server_bind(self):
        # One listener for both families, as most servers have it.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def on_signal(number, _):
    say(f"signal {number}")
    os._exit(5)


signal.signal(signal.SIGTERM, on_signal)
signal.signal(signal.SIGINT, on_signal)
servers = [Server(("::", int(port)), Handler) for port in ports]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"listening {server.server_address[1]}")
while True:
    signal.pause()
