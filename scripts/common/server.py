"""A server that is started many times on one data directory, and ended in several ways."""
import http.client
import json
import os
import signal
import subprocess
import time

START_SECONDS = 60


class Failed(Exception):
    """Ends the script with one line."""


class Server:
    """Its data, the last line of its standard output and its log are in `folder`; port 0 is a free one, and the same
    one at each start from then on."""

    def __init__(self, binary, folder, port=0, settings=None):
        self.binary, self.data, self.port = binary, os.path.join(folder, "data"), port
        self.out, self.log = os.path.join(folder, "server.out"), os.path.join(folder, "server.log")
        self.settings, self.process = settings or {}, None

    def launch(self):
        """Starts the process and waits for nothing."""
        environment = {"HOST": "127.0.0.1", "PORT": str(self.port), "DATA_DIR": self.data, "LOG": "warn", **self.settings}
        with open(self.out, "wb") as out, open(self.log, "ab") as log:
            self.process = subprocess.Popen([self.binary, "serve"], env=environment, stdout=out, stderr=log)

    def wait(self):
        """Waits until it says where it listens; seconds."""
        begun = time.monotonic()
        while time.monotonic() - begun < START_SECONDS:
            with open(self.out, encoding="utf-8") as f:
                said = f.read()
            if " listening on http://" in said:
                self.port = int(said.split(" listening on http://")[1].split(",")[0].split()[0].rsplit(":", 1)[1])
                return time.monotonic() - begun
            if self.process.poll() is not None:
                raise Failed(f"the server ended at once with code {self.process.returncode}: {self.last_word()}")
            time.sleep(0.005)
        raise Failed(f"the server does not say where it listens: {self.last_word()}")

    def start(self):
        """Starts it; seconds until it said where it listens."""
        self.launch()
        return self.wait()

    def lines(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()

    def last_word(self):
        return (self.lines() or ["no word why"])[-1]

    def wrong(self):
        """Lines of the log that must not be."""
        return [it for it in self.lines() if "panic" in it or " error " in it.lower() or "level=error" in it]

    def kill(self):
        """SIGKILL; fails when it had ended by itself."""
        code = self.process.poll()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if code is not None:
            raise Failed(f"the server ended by itself with code {code}: {self.last_word()}")

    def stop(self):
        """Ends it in order; its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def end(self):
        if self.process and self.process.poll() is None:
            self.kill()

    def call(self, method, path, body=None, token=None, timeout=30):
        """Status and JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def ask(self, method, path, body=None, token=None):
        """The JSON of an answer that has to be a good one."""
        status, answer = self.call(method, path, body, token)
        if not 200 <= status < 300:
            raise Failed(f"{method} {path}: {status} {answer}")
        return answer

    def init_admin(self):
        """Makes the first admin; its token."""
        return self.ask("POST", "/api/admins/init", {"email": "admin@example.com", "password": "password-1"})["token"]
