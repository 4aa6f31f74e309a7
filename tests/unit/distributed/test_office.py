"""The store of the letters: the same answers here and over a connection, and none without the token."""

import socket
import struct
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from gradwatch.distributed import Address, Mailbox, open_office, reach_office
from gradwatch.distributed import office as module


@pytest.fixture(scope="module")
def office():
    return open_office()


@pytest.fixture
def stores(office):
    """The store itself, and the same from outside."""
    letters, address = office
    remote = reach_office(address, ["127.0.0.1"])
    yield letters, remote
    remote._connection.close()


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20])
def test_what_one_side_sets_the_other_gets(stores, size):
    for setter, getter in (stores, stores[::-1]):
        setter.set("a", bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        setter.multi_set(["text", "empty"], ["é", ""])
        assert getter.get("empty") == b""
        found = getter.multi_get(["text", "a"])
        assert found == ["é".encode(), bytes(range(256)) * (size // 256) + b"x" * (size % 256)]
        assert getter.get("text") == "é".encode()
        assert getter.check(["a", "text"])
        assert not getter.check(["a", "nothing"])
        assert getter.delete_key("a")
        assert not getter.delete_key("a")
        assert not setter.check(["a"])
        with pytest.raises(KeyError):
            getter.multi_get(["a", "text"])


def test_waiting_ends_when_the_value_comes_or_in_time(stores):
    letters, remote = stores
    threading.Timer(0.2, letters.set, ["late", b"1"]).start()
    remote.wait(["late"], timedelta(seconds=30))
    with pytest.raises(TimeoutError):
        remote.wait(["never"], timedelta(seconds=0.1))


def test_mailboxes_meet_there(stores):
    letters, remote = stores
    reader, sender = Mailbox(0, letters), Mailbox(3, remote)
    assert sender.announced("open") is None
    reader.announce("open", {"0": 7})
    assert sender.announced("open", 5.0) == {"0": 7}
    sender.send(b"first")
    sender.send(b"second")
    assert [reader.receive(3) for _ in range(3)] == [b"first", b"second", None]


def answered(address, data):
    """What the office answers before it closes the connection, or within half a second."""
    with socket.create_connection(("127.0.0.1", address.port), 5) as connection:
        connection.sendall(data)
        connection.settimeout(0.5)
        try:
            return connection.recv(100)
        except (TimeoutError, ConnectionError):
            return b""


def test_nothing_is_answered_without_the_token_and_others_are_served_on(office, stores):
    _, address = office
    request = module.frame(["check", [], None], b"")
    assert answered(address, address.token.encode() + request) == module.frame(True, b"")
    assert answered(address, b"0" * len(address.token) + request) == b""
    assert answered(address, address.token[:-1].encode()) == b""
    assert answered(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    for nonsense in (b"no json\n", b"[]\n", b'["set", ["a"], []]\n', b'["get", 7, null]\n', b'["eval", "1", 0]\n'):
        assert answered(address, address.token.encode() + struct.pack(">I", len(nonsense)) + nonsense) in (
            b"",
            module.frame(None, b""),
        )
    assert answered(address, address.token.encode() + struct.pack(">I", 2**32 - 1)) == b""
    assert stores[1].check([])


def test_a_client_that_reads_no_answer_holds_up_no_other(office, stores):
    letters, address = office
    letters.set("large", bytes(2**22))
    with socket.create_connection(("127.0.0.1", address.port), 5) as deaf:
        deaf.sendall(address.token.encode() + module.frame(["get", ["large"] * 4, None], b""))
        began = time.monotonic()
        assert stores[1].get("large") == bytes(2**22)
        assert time.monotonic() - began < module.ANSWERS_WITHIN


def test_the_first_way_that_leads_there_is_taken_and_all_are_named_where_none_does(office):
    _, address = office
    reach_office(address, ["no.such.host.invalid", "127.0.0.1"]).check([])
    _, elsewhere = open_office()
    with pytest.raises(OSError, match=rf"127.0.0.1:{elsewhere.port}"):
        reach_office(replace(elsewhere, token=address.token), ["127.0.0.1"])


def test_the_end_of_the_office_is_an_error_and_no_wait(office):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(OSError, match=r"ended|reset|pipe"):
            reach_office(Address("here", server.getsockname()[1], "0" * 32), ["127.0.0.1"])
