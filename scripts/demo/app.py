"""The program that you develop: an ordinary web server, which knows nothing of mirrord.

It says who it is to whoever asks, and prints a line for each request that it sees. It listens on the port that it is given, or on 80.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(f"saw {self.path} from {self.client_address[0]}", flush=True)
        body = f"your program, pid {os.getpid()}, client {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("", int((sys.argv[1:] or [80])[0])), Handler).serve_forever()
