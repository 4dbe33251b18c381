"""A WebSocket client: sends and receives text messages, and raw bytes to break the protocol."""
import base64
import os
import socket
import struct


class Closed(Exception):
    """The connection is over; `code` if the server gave one."""

    def __init__(self, why, code=None):
        super().__init__(why)
        self.code = code


class Refused(Exception):
    """The server did not want a WebSocket."""


def frame(data, opcode=1):
    """A frame as it goes over the line. The mask is zero, which is a mask as well."""
    data = data.encode() if isinstance(data, str) else data
    size = len(data)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0xFE, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0xFF, size)
    return head + b"\0\0\0\0" + data


class Socket:
    """A connection. One thread reads; callers must not send at the same time."""

    def __init__(self, port, path, headers, timeout=10, source=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, source)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(timeout)
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
                     f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.socket.sendall("\r\n".join(lines + ["", ""]).encode())
            self.buffer, self.parts = bytearray(), bytearray()
            while b"\r\n\r\n" not in self.buffer:
                self.fill()
            head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise Refused(head.split(b"\r\n")[0].decode(errors="replace"))
            self.buffer = bytearray(rest)
        except BaseException:
            self.socket.close()
            raise

    def fill(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise Closed("the other side is gone")
        self.buffer += data

    def send(self, *texts):
        self.socket.sendall(b"".join(frame(text) for text in texts))

    def send_raw(self, data):
        self.socket.sendall(data)

    def frames(self):
        """The texts that have arrived whole."""
        texts = []
        while True:
            size, at = len(self.buffer), 2
            if size < 2:
                return texts
            length = self.buffer[1] & 127
            if length == 126:
                at = 4
                if size < 4:
                    return texts
                length = struct.unpack_from(">H", self.buffer, 2)[0]
            elif length == 127:
                at = 10
                if size < 10:
                    return texts
                length = struct.unpack_from(">Q", self.buffer, 2)[0]
            if size < at + length:
                return texts
            first, data = self.buffer[0], bytes(self.buffer[at:at + length])
            del self.buffer[:at + length]
            opcode = first & 15
            if opcode == 8:
                code = struct.unpack(">H", data[:2])[0] if len(data) > 1 else None
                raise Closed(data[2:].decode(errors="replace"), code)
            if opcode == 9:
                self.socket.sendall(frame(data, 10))
            elif opcode != 10:
                self.parts += data
                if first & 0x80:
                    texts.append(self.parts.decode())
                    self.parts = bytearray()

    def read(self, timeout):
        """Texts, at least one; none when there was nothing for so long."""
        texts = self.frames()
        if not texts:
            self.socket.settimeout(timeout)
            try:
                self.fill()
            except TimeoutError:
                return []
            finally:
                self.socket.settimeout(10)
            texts = self.frames()
        return texts

    def close(self):
        self.socket.close()

    def abort(self):
        """Ends it with a reset instead of a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
