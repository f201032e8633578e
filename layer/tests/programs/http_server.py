"""http.server as its users write it; "/child" answers what a subprocess says, which closes all that it inherits."""
import http.server
import subprocess
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "client=%s:%d" % self.client_address + " own=%s:%d" % self.connection.getsockname()
        if self.path == "/child":
            body += " " + subprocess.run(["echo", "child"], capture_output=True, text=True, check=True).stdout.strip()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        print("served", self.client_address[0], flush=True)


server = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
print("bound %s:%d" % server.socket.getsockname(), flush=True)
server.serve_forever()
