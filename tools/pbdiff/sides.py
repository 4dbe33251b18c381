"""The two servers, and the answers of both in one form."""
import http.client
import json
import re
import socket
import subprocess
import time

from server import Failed

PASSWORD = "password-1234"


class Side:
    """One of the two servers, with one connection that is kept."""

    def __init__(self, name, port):
        self.name, self.port, self.admin, self.connection = name, port, None, None

    def call(self, method, path, body=None, token=None, headers=None):
        """Status and JSON of the answer. A body of bytes is a form with files."""
        headers = {"Content-Type": "application/json", "X-A": "1", **(headers or {})}
        if token:
            headers["Authorization"] = token
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        for attempt in (1, 2):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self.connection.request(method, path, sent, headers)
                answer = self.connection.getresponse()
                text = answer.read()
                return answer.status, json.loads(text) if text else None
            except (http.client.HTTPException, OSError):
                self.connection = None
                if attempt == 2:
                    raise

    def ask(self, method, path, body=None, headers=None):
        """The JSON of an answer to the admin, which has to be a good one."""
        status, answer = self.call(method, path, body, self.admin, headers)
        if not 200 <= status < 300:
            raise Failed(f"{self.name}: {method} {path} {json.dumps(body) if isinstance(body, dict) else ''}: "
                         f"{status} {json.dumps(answer)[:600]}")
        return answer


class Pocketbase(Side):
    """A PocketBase that runs until `end`."""

    def __init__(self, program, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        super().__init__("PocketBase", port)
        common = [f"--dir={folder}", "--automigrate=0"]
        made = subprocess.run([program, "superuser", "upsert", "admin@example.com", PASSWORD, *common], capture_output=True)
        if made.returncode:
            raise Failed(f"{program}: {made.stderr.decode()[-300:]}")
        self.process = subprocess.Popen([program, "serve", f"--http=127.0.0.1:{port}", *common],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                login = {"identity": "admin@example.com", "password": PASSWORD}
                status, answer = self.call("POST", "/api/collections/_superusers/auth-with-password", login)
                if status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > end or self.process.poll() is not None:
                raise Failed("PocketBase does not start")
            time.sleep(0.05)
        self.admin = answer["token"]
        self.ask("PATCH", "/api/settings", {"batch": {"enabled": True, "maxRequests": 50}, "logs": {"maxDays": 0}})

    def end(self):
        self.process.terminate()
        self.process.wait(10)


def form(values, files):
    """A multipart body with a record and its files, by field; and its headers."""
    parts = [('name="@jsonPayload"', json.dumps(values))]
    parts += [(f'name="{field}"; filename="{name}"', f"content of {name}") for field, names in files.items() for name in names]
    text = "".join(f"--edge\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n" for head, body in parts)
    return (text + "--edge--\r\n").encode(), {"Content-Type": "multipart/form-data; boundary=edge"}


def plain(value):
    """A value of an answer without what both servers choose by themselves, or write in another way: the random part of
    a file's name, the T of a time."""
    if isinstance(value, dict):
        # Records here have these times although the definition does not list them (the table of from-pocketbase.md).
        return {name: plain(it) for name, it in value.items() if name not in ("created", "updated", "auto") and it != {}}
    if isinstance(value, list):
        return [plain(it) for it in value]
    if isinstance(value, str):
        value = re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d\.\d{3}Z)$", r"\1 \2", value)
        return re.sub(r"^(\w+?)_[A-Za-z0-9]{10}\.txt$", r"\1.txt", value)
    return value


def codes(answer):
    """The codes of an error, nested as they are."""
    if isinstance(answer, dict) and "code" in answer and not isinstance(answer["code"], dict):
        nested = answer.get("response") or answer.get("data")
        return {"code": answer["code"], **({"response": codes(nested)} if nested else {})}
    if isinstance(answer, dict):
        return {name: codes(it) for name, it in answer.items() if name not in ("message", "status", "params")}
    return answer
