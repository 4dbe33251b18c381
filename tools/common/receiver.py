"""An unreliable receiver of webhooks."""
import base64
import collections
import hashlib
import hmac
import http.server
import random
import socketserver
import threading
import time


class Receiver:
    """Takes calls on /hook and looks at their signatures. `trouble` is how often it answers otherwise than with 200."""

    def __init__(self, trouble, seed):
        self.trouble, self.rng = trouble, random.Random(seed)
        self.lock, self.secret = threading.Lock(), b""
        self.counts, self.wrong = collections.Counter(), []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, pause = receiver.take(self.path, self.headers, body)
                time.sleep(pause)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                # The server was killed in the middle of a call.
                pass

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path, headers, body):
        with self.lock:
            self.counts["calls"] += 1
            if path != "/hook":
                self.wrong.append(f"a redirect was followed to {path}")
                return 200, 0
            name, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
            signed = f"{name}.{moment}.".encode() + body
            mark = base64.b64encode(hmac.new(self.secret, signed, hashlib.sha256).digest()).decode()
            if f"v1,{mark}" not in headers.get("webhook-signature", "").split():
                self.wrong.append(f"the signature of {name} is wrong")
            self.called(name, body)
            if self.rng.random() < self.trouble:
                status, pause = self.rng.choice([(500, 0), (404, 0), (302, 0), (500, 1.5), (429, 0)])
                self.counts[status] += 1
                return status, pause
            self.taken(name, body)
            return 200, 0

    def called(self, name, body):
        """A call has come."""

    def taken(self, name, body):
        """It will be answered with 200."""
