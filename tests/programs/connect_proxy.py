"""A proxy that every CONNECT leads to itself: it answers what comes through the tunnel. Arguments: NAME LOG PORT..."""
import os
import socketserver
import sys
import threading

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(line):
    os.write(log, (line + "\n").encode())


class Handler(socketserver.StreamRequestHandler):
    def head(self):
        lines = []
        while line := self.rfile.readline().rstrip():
            lines.append(line.decode())
        return lines

    def handle(self):
        opening = self.head()
        say(opening[0])
        self.wfile.write(f"HTTP/1.1 200 Connected\r\nX-Proxy: {name}\r\n\r\n".encode())
        while inner := self.head():
            text = f"{name} tunnel {inner[0]}\n"
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


for port in ports:
    server = Server(("0.0.0.0", int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"listening {port}")
threading.Event().wait()
