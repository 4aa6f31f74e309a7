"""A key-value store for the letters of one recording, which outlives the training processes.

The recorder's process of rank 0 has it, and those of the other ranks reach it over TCP. The training's own store ends
with the process that serves it, which may be the training process of rank 0. Neither side needs torch.

A client first sends the token. Then each request, and each answer, is a frame: its length, a line of JSON, and bytes.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

REACHED_WITHIN = 10.0  # seconds for one way to the office
ANSWERS_WITHIN = 60.0  # seconds for one request
PAUSE = 0.05  # seconds between two looks for what is waited for
LONGEST = 2**30  # bytes of a frame
LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the office is.

    Attributes:
        host: name of the machine, as it knows itself.
        port: on every interface of the machine.
        token: without it nothing is answered.
    """

    host: str
    port: int
    token: str

    def ways(self, store_host: str | None, environment: Mapping[str, str] = os.environ) -> list[str]:
        """The hosts to try, in order; ``store_host`` is the machine with the training's own store.

        >>> Address("node7", 1, "").ways("10.0.0.7", {"MASTER_ADDR": "10.0.0.7"})
        ['10.0.0.7', 'node7']
        """
        here = "127.0.0.1" if socket.gethostname() == self.host else None
        return list(dict.fromkeys(filter(None, (store_host, environment.get("MASTER_ADDR"), here, self.host))))


class Letters:
    """The store, in the process that has it; with the methods of torch's stores that a mailbox calls.

    >>> letters = Letters()
    >>> letters.set("0/7", b"abc")
    >>> letters.check(["0/7"]), letters.multi_get(["0/7"]), letters.delete_key("0/7"), letters.check(["0/7"])
    (True, [b'abc'], True, False)
    """

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = _bytes_of(value)

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def get(self, key: str) -> bytes:
        return self._values[key]

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self._values for key in keys)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self._values[key] for key in keys]

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def wait(self, keys: Sequence[str], timeout: timedelta) -> None:
        wait_for(self, keys, timeout)


def wait_for(letters: Letters | RemoteLetters, keys: Sequence[str], timeout: timedelta) -> None:
    """Wait until all keys are there.

    Raises:
        TimeoutError: one is missing.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    while not letters.check(keys):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing under {', '.join(keys)}")
        time.sleep(PAUSE)


class RemoteLetters:
    """The same store from another process."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connection that has shown the token."""
        self._connection = connection
        self._lock = threading.Lock()

    def set(self, key: str, value: str | bytes) -> None:
        self.multi_set([key], [value])

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        data = [_bytes_of(value) for value in values]
        self._ask(["set", list(keys), [len(one) for one in data]], b"".join(data))

    def get(self, key: str) -> bytes:
        return self.multi_get([key])[0]

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._ask(["check", list(keys), None])[0])

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        lengths, data = self._ask(["get", list(keys), None])
        if lengths is None:
            raise KeyError(", ".join(keys))
        return cut(data, lengths)

    def delete_key(self, key: str) -> bool:
        return bool(self._ask(["delete", key, None])[0])

    def wait(self, keys: Sequence[str], timeout: timedelta) -> None:
        wait_for(self, keys, timeout)

    def _ask(self, head: Any, data: bytes = b"") -> tuple[Any, bytes]:
        with self._lock:
            self._connection.sendall(frame(head, data))
            (length,) = LENGTH.unpack(self._read(LENGTH.size))
            return opened(self._read(length))

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._connection.recv(min(count, 2**20))
            if not part:
                raise ConnectionError("the recorder's process of rank 0 has ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _bytes_of(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def frame(head: Any, data: bytes) -> bytes:
    """A request or an answer as it is sent.

    >>> opened(frame(["get", "key"], b"abc")[LENGTH.size :])
    (['get', 'key'], b'abc')
    """
    line = json.dumps(head).encode() + b"\n"
    return LENGTH.pack(len(line) + len(data)) + line + data


def opened(body: bytes) -> tuple[Any, bytes]:
    """The line and the bytes of a frame, without its length."""
    line, _, data = body.partition(b"\n")
    return json.loads(line), data


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Cut bytes into pieces of these lengths.

    >>> cut(b"abcde", [2, 0, 3])
    [b'ab', b'', b'cde']
    """
    found, at = [], 0
    for length in lengths:
        found.append(data[at : at + length])
        at += length
    return found


def open_office() -> tuple[Letters, Address]:
    """Begin to serve in a thread of its own; returns the store and where it is.

    Raises:
        OSError: no port can be opened.
    """
    listener = _listener()
    address = Address(socket.gethostname(), listener.getsockname()[1], secrets.token_hex(16))
    letters = Letters()
    office = _Office(listener, letters, address.token.encode())
    threading.Thread(target=office.serve, name="gradwatch office", daemon=True).start()
    return letters, address


def _listener() -> socket.socket:
    """A port on every interface, by both versions of IP where the system has both."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=4096)


def reach_office(address: Address, hosts: Sequence[str]) -> RemoteLetters:
    """The store at this address, by the first of the hosts that leads there.

    Raises:
        OSError: none does.
    """
    failed = []
    for host in hosts:
        try:
            return _store_at(host, address)
        except (OSError, ValueError) as error:
            failed.append(f"{host}:{address.port}: {error}")
    raise OSError("; ".join(failed))


def _store_at(host: str, address: Address) -> RemoteLetters:
    connection = socket.create_connection((host, address.port), REACHED_WITHIN)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(address.token.encode())
        found = RemoteLetters(connection)
        found.check([])  # an answer shows that it is the right office
        connection.settimeout(ANSWERS_WITHIN)
    except BaseException:
        connection.close()
        raise
    return found


class _Client:
    """One connection: what has come and is not yet a frame, and what is not yet sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_known = False
        self.read, self.unsent = bytearray(), bytearray()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.connection.send(self.unsent)]


class _Office:
    """The thread that answers: all clients in turn, none of which it waits for."""

    def __init__(self, listener: socket.socket, letters: Letters, token: bytes) -> None:
        self._listener, self._letters, self._token = listener, letters, token
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._welcome()
                else:
                    self._serve_client(key.data)

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):  # it is gone again, or no descriptor is left for it
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(connection, selectors.EVENT_READ, _Client(connection))

    def _serve_client(self, client: _Client) -> None:
        try:
            is_open = self._read(client)
            self._answer_all(client)
            client.send()
        except Exception:  # of the connection, or by a client that speaks otherwise
            is_open = False
        if not is_open:
            self._selector.unregister(client.connection)
            client.connection.close()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, events, client)

    def _read(self, client: _Client) -> bool:
        """Read what has come; whether the connection is still open."""
        try:
            data = client.connection.recv(2**20)
        except BlockingIOError:
            return True
        client.read += data
        return bool(data)

    def _answer_all(self, client: _Client) -> None:
        if not client.is_known:
            shown = bytes(client.read[: len(self._token)])
            if len(shown) < len(self._token):
                return
            if not hmac.compare_digest(shown, self._token):
                raise ValueError("a client without the token")
            del client.read[: len(self._token)]
            client.is_known = True
        while len(client.read) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(client.read)
            if length > LONGEST:
                raise ValueError("a frame that is too long")
            end = LENGTH.size + length
            if len(client.read) < end:
                return
            body = bytes(client.read[LENGTH.size : end])
            del client.read[:end]
            client.unsent += self._answer(*opened(body))

    def _answer(self, head: Any, data: bytes) -> bytes:
        kind, keys, lengths = head
        if kind == "set":
            self._letters.multi_set(keys, cut(data, lengths))
            return frame(True, b"")
        if kind == "delete":
            return frame(self._letters.delete_key(keys), b"")
        if kind == "check":
            return frame(self._letters.check(keys), b"")
        if not self._letters.check(keys):
            return frame(None, b"")
        found = self._letters.multi_get(keys)
        return frame([len(one) for one in found], b"".join(found))
