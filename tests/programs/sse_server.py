"""Server-sent events. Arguments: NAME LOG PORT...; `GET /events` stays open, `GET /tell/TEXT` sends TEXT to all that listen."""
import http.server
import os
import queue
import sys
import threading

name, log_path, ports = sys.argv[1], sys.argv[2], sys.argv[3:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
listeners = []


def say(line):
    os.write(log, (line + "\n").encode())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        say(f"request {self.path} user={self.headers.get('x-user', '')}")
        if self.path.startswith("/events"):
            return self.events(self.path.endswith("chunked"))
        for listener in listeners:
            listener.put(self.path.split("/")[-1])
        text = f"{name} told {len(listeners)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def events(self, chunked):
        mine = queue.Queue()
        listeners.append(mine)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            text = mine.get()
            event = f"data: {name} {text}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
            if text == "end":
                break
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        listeners.remove(mine)

    def log_message(self, *_):
        pass


for port in ports:
    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(f"listening {port}")
threading.Event().wait()
