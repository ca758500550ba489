"""The page's server without a browser: who is let in, what is told, and that a slow viewer harms only itself."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from browser import INFO, Feed, pair
from hypothesis import example, given
from hypothesis import strategies as st
from waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from stream_sr.errors import ConfigError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import CheckedSink, Display, SinkOptions
from stream_sr.sinks import open_sink
from stream_sr.sinks.web.auth import MAX_WRONG_PASSWORDS, WRONG_PASSWORD_SECONDS, WebAuth
from stream_sr.sinks.web.client import MAX_MESSAGE_BYTES, MAX_QUEUED_TEXTS, WebClient
from stream_sr.sinks.web.messages import FRAGMENT, HEADER, INIT, JPEG
from stream_sr.sinks.web.server import load_page
from stream_sr.sinks.web.sink import WebSink, _Timeline

pytestmark = pytest.mark.network


@pytest.fixture
def feed() -> Iterator[Feed]:
    with Feed(fps=60) as running:
        yield running


def get(feed: Feed, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", feed.sink.port, timeout=10)
    with closing(connection):
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@contextmanager
def viewer(feed: Feed, **options: Any) -> Iterator[ClientConnection]:
    address = f"ws://127.0.0.1:{feed.sink.port}/stream"
    origin = options.pop("origin", f"http://127.0.0.1:{feed.sink.port}")
    with connect(address, origin=origin, compression=None, max_size=None, close_timeout=1, **options) as connection:
        yield connection


def kind(message: str | bytes) -> int | str:
    return json.loads(message)["type"] if isinstance(message, str) else HEADER.unpack_from(message)[0]


def receive(connection: ClientConnection, wanted: int | str) -> Any:
    """The next message of a kind; those before it are dropped."""
    while True:
        message = connection.recv(timeout=20)
        if kind(message) == wanted:
            return json.loads(message) if isinstance(message, str) else message


# -- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("web:8080", "127.0.0.1", 8080),
        ("web:0.0.0.0:80", "0.0.0.0", 80),
        ("web:[::1]:9000", "::1", 9000),
        ("web:localhost:1", "localhost", 1),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    sink = WebSink(address, SinkOptions())
    assert (sink.host, sink.port) == (host, port)
    assert isinstance(sink, CheckedSink)
    assert isinstance(sink, Display)


@pytest.mark.parametrize("address", ["web:", "web:host", "web:1:", "web:99999", "web:-1", "web:::1:80", "web:²"])
def test_other_addresses_are_refused_in_one_line(address: str) -> None:
    with pytest.raises(SinkOpenError, match="is no address of a page") as caught:
        open_sink(address, SinkOptions())
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_refused_before_any_work() -> None:
    with closing(WebSink("web:0", SinkOptions())) as first:
        first.check()
        assert first.port > 0
        with pytest.raises(SinkOpenError, match="is taken"):
            open_sink(f"web:{first.port}", SinkOptions())
    with pytest.raises(SinkOpenError, match=r"no address of this machine"):
        open_sink("web:192.0.2.1:8080", SinkOptions())


def test_closing_ends_everything_and_may_be_repeated() -> None:
    before = threading.active_count()
    for _ in range(3):
        sink = WebSink("web:0", SinkOptions())
        sink.open(INFO)
        sink.close()
        sink.close()
        with pytest.raises(SinkWriteError, match="not open"):
            sink.write(pair(0))
    assert threading.active_count() == before


# -- the page ----------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_may_load_nothing_else(feed: Feed) -> None:
    status, headers, body = get(feed)
    assert status == 200
    assert body == load_page()[0]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert b"http://" not in body
    assert b"https://" not in body.replace(b'"https:"', b"")
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/page.html", "/../page.html", "/%2e%2e/etc/passwd", "//etc/passwd", "/stream", "/stats/"]
)
def test_there_is_nothing_else_to_read(feed: Feed, path: str) -> None:
    status, _, body = get(feed, path)
    assert status == 404
    assert len(body) < 100


def test_stats_are_what_the_displays_are_shown(feed: Feed) -> None:
    feed.sink.show_figures({"fps_in": 30.0})
    with viewer(feed) as connection:
        receive(connection, "stream")
        feed.sink.show_figures({"fps_in": 12.5})
        assert receive(connection, "figures")["fps_in"] == 12.5
        status, headers, body = get(feed, "/stats")
        stats = json.loads(body)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert (stats["fps_in"], stats["web"]["viewers"], stats["web"]["viewers_so_far"]) == (12.5, 1, 1)
        assert "access-control-allow-origin" not in headers


# -- who is let in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::1", "localhost.evil", "127.0.0.1%a.evil"],
)
def test_a_foreign_name_is_refused_against_dns_rebinding(feed: Feed, host: str) -> None:
    for path in ("/", "/stats", "/stream"):
        status, _, body = get(feed, path, Host=host)
        assert status == 403
        assert b"not served under the name" in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "192.168.1.5:80", "[::1]:8080", "LOCALHOST"])
def test_addresses_and_own_names_are_served(feed: Feed, host: str) -> None:
    assert get(feed, Host=host)[0] == 200


def test_a_name_that_was_allowed_is_served() -> None:
    with Feed(web_names=("Camera.example",)) as feed:
        assert get(feed, Host="camera.example:8080")[0] == 200
        assert get(feed, Host="other.example")[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://", None])
def test_a_stream_is_only_for_its_own_page(feed: Feed, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as caught, viewer(feed, origin=origin):
        pass
    assert caught.value.response.status_code == 403


def basic(word: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()


def test_the_password_opens_page_stats_and_stream_and_gives_a_cookie() -> None:
    with Feed(viewer_user="me", viewer_password="pa:ß word") as feed:
        for path in ("/", "/stats", "/stream", "/x"):
            status, headers, _ = get(feed, path)
            assert (status, headers["www-authenticate"][:5]) == (401, "Basic")
        assert get(feed, Authorization=basic("wrong"))[0] == 401
        assert get(feed, Authorization="Basic %%%")[0] == 401
        assert get(feed, Authorization=basic("pa:ß word", "you"))[0] == 401
        status, headers, _ = get(feed, Authorization=basic("pa:ß word"))
        cookie = headers["set-cookie"]
        assert status == 200
        assert "HttpOnly; SameSite=Strict" in cookie
        assert get(feed, "/stats", Cookie=cookie.partition(";")[0])[0] == 200
        assert get(feed, "/stats", Cookie=cookie.partition(";")[0][:-1])[0] == 401
        with pytest.raises(InvalidStatus), viewer(feed):
            pass
        with viewer(feed, additional_headers={"Cookie": cookie.partition(";")[0]}) as connection:
            receive(connection, FRAGMENT)


def test_who_guesses_waits_and_others_do_not() -> None:
    now = 0.0
    auth = WebAuth(80, login=("me", "word"), now=lambda: now)
    for _ in range(MAX_WRONG_PASSWORDS):
        refusal = auth.check_password("1.2.3.4", basic("guess"), None)
        assert refusal is not None
        assert refusal.status == 401
    refusal = auth.check_password("1.2.3.4", basic("word"), None)
    assert refusal is not None
    assert refusal.status == 429
    assert auth.check_password("1.2.3.5", basic("word"), None) is None
    assert auth.check_password("1.2.3.4", None, f"a=b; {auth.cookie}={auth.token}") is None
    now = WRONG_PASSWORD_SECONDS + 1
    assert auth.check_password("1.2.3.4", basic("word"), None) is None


def test_the_list_of_guessers_is_bounded() -> None:
    auth = WebAuth(80, login=("me", "word"))
    for number in range(3000):
        auth.check_password(f"10.0.{number // 256}.{number % 256}", basic("guess"), None)
    assert len(auth._wrong) <= 1000


@given(st.text(), st.text(), st.text(), st.text())
@example("[", "http://[", "Basic", "=")
def test_no_header_is_an_exception(host: str, origin: str, authorization: str, cookie: str) -> None:
    auth = WebAuth(80, login=("me", "word"))
    auth.check_host(host)
    auth.check_origin(origin, host)
    assert auth.check_password("a", authorization, cookie) is not None
    assert auth.check_password("a", f"Basic {authorization}", cookie) is not None


# -- the stream --------------------------------------------------------------------------------------------------


def test_a_viewer_gets_the_stream_from_a_keyframe_on(feed: Feed) -> None:
    with viewer(feed) as first, viewer(feed) as second:
        for connection in (first, second):
            hello, stream = receive(connection, "hello"), receive(connection, "stream")
            assert hello["read_only"] is True
            assert stream["mime"].startswith('video/mp4; codecs="avc1.')
            init = receive(connection, INIT)
            assert init[HEADER.size + 4 : HEADER.size + 8] == b"ftyp"
            times = []
            for _ in range(5):
                message = receive(connection, FRAGMENT)
                _, number, captured_ms, at = HEADER.unpack_from(message)
                assert message[HEADER.size + 4 : HEADER.size + 8] == b"moof"
                assert 0 <= time.monotonic_ns() / 1e6 - captured_ms < 20_000
                times.append((number, at))
            assert times == sorted(times)
            assert is_keyframe(init, message) is False
    assert feed.number > 0


def is_keyframe(init: bytes, message: bytes) -> bool:
    """By the sample's flags: sample_is_non_sync_sample."""
    where = message.index(b"trun") + 4 + 4 + 4 + 4 + 4 + 4
    return not struct.unpack_from(">I", message, where)[0] & 0x10000


def test_jpeg_is_sent_to_who_asks(feed: Feed) -> None:
    with viewer(feed) as other, viewer(feed) as connection:
        connection.send(json.dumps({"type": "jpeg"}))
        message = receive(connection, JPEG)
        assert message[HEADER.size : HEADER.size + 2] == b"\xff\xd8"
        receive(other, FRAGMENT)


def test_nothing_is_encoded_while_nobody_looks_on() -> None:
    with closing(WebSink("web:0", SinkOptions())) as sink:
        sink.open(INFO)
        for number in range(5):
            assert sink.write(pair(number))
        assert sink._encoder is None


def test_a_ping_tells_the_clock(feed: Feed) -> None:
    with viewer(feed) as connection:
        before = time.monotonic_ns() / 1e6
        connection.send(json.dumps({"type": "ping", "at": 5.5}))
        pong = receive(connection, "pong")
        assert pong["at"] == 5.5
        assert before <= pong["clock"] <= time.monotonic_ns() / 1e6


BAD_MESSAGES = [
    "", "[]", "{}", "null", '"x"', "[" * 1500, '{"type": 3}', '{"type": "set"}',
    '{"type": "set", "name": 1, "value": []}',
    '{"type": "set", "name": "model", "value": "x"}', b"\x00\xff", '{"type": "open", "path": "/etc/passwd"}',
]  # fmt: skip


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
def test_a_message_that_is_none_is_refused_and_the_stream_goes_on(feed: Feed, message: str | bytes) -> None:
    with viewer(feed) as connection:
        connection.send(message)
        assert receive(connection, "refused")["text"]
        receive(connection, FRAGMENT)


def test_numbers_that_json_cannot_tell_are_not_answered(feed: Feed) -> None:
    with viewer(feed) as connection:
        for at in ("NaN", "Infinity", '"x"', "null", "1" + 1500 * "0"):
            connection.send(f'{{"type": "ping", "at": {at}}}')
        connection.send('{"type": "ping", "at": 1}')
        assert receive(connection, "pong")["at"] == 1


@pytest.mark.parametrize("how", ["long", "many"])
def test_who_says_too_much_is_thrown_out_and_the_others_see_on(feed: Feed, how: str) -> None:
    with viewer(feed) as good, viewer(feed) as bad:
        with pytest.raises(ConnectionClosed) as caught:
            for _ in range(1 if how == "long" else 500):
                bad.send("x" * (MAX_MESSAGE_BYTES + 1) if how == "long" else "{}")
            while True:
                bad.recv(timeout=20)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == (1009 if how == "long" else 1008)
        receive(good, FRAGMENT)


def test_answers_that_nobody_reads_are_bounded() -> None:
    client = WebClient(None, lambda *_: None)  # type: ignore[arg-type]
    for at in range(3000):
        client._receive(json.dumps({"type": "ping", "at": at}))
    assert len(client._texts) == MAX_QUEUED_TEXTS
    assert json.loads(client._texts[-1])["at"] == 2999


def test_there_are_only_so_many_viewers() -> None:
    with Feed(fps=60, max_viewers=3) as feed:
        with viewer(feed), viewer(feed), viewer(feed):
            with pytest.raises(InvalidStatus) as caught, viewer(feed):
                pass
            assert caught.value.response.status_code == 503
        wait_until(lambda: json.loads(get(feed, "/stats")[2])["web"]["viewers"] == 0)
        with viewer(feed) as connection:
            receive(connection, FRAGMENT)


def test_controls_are_asked_and_refusals_told() -> None:
    changes: list[tuple[str, str]] = []

    class Asked:
        def change(self, name: str, value: str) -> None:
            if name != "model":
                raise ConfigError("only the model")
            changes.append((name, value))

    with Feed(controls=Asked()) as feed, viewer(feed) as connection:
        assert receive(connection, "hello")["read_only"] is False
        connection.send(json.dumps({"type": "set", "name": "scale", "value": "3"}))
        assert receive(connection, "refused")["text"] == "only the model"
        connection.send(json.dumps({"type": "set", "name": "model", "value": "fast"}))
        wait_until(lambda: changes == [("model", "fast")])


def test_a_viewer_that_stops_reading_delays_neither_the_others_nor_the_program() -> None:
    """Noise makes pictures so large that a connection nobody reads is full at once."""
    with Feed(fps=30) as feed:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", feed.sink.port))
        with closing(raw), viewer(feed) as good:
            key = base64.b64encode(bytes(16)).decode()
            host = f"127.0.0.1:{feed.sink.port}"
            raw.sendall(
                f"GET /stream HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\nConnection: "
                f"Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            first = HEADER.unpack_from(receive(good, FRAGMENT))[1]
            for number in range(first + 1, first + 91):
                assert HEADER.unpack_from(receive(good, FRAGMENT))[1] == number  # not one is missing
            stats = json.loads(get(feed, "/stats")[2])["web"]
            assert stats["viewers"] == 2
            assert stats["dropped_pictures"] > 0
            assert feed.slowest < 2


def test_viewers_that_come_and_go_leave_nothing_behind(feed: Feed) -> None:
    threads = threading.active_count()
    for _ in range(40):
        with viewer(feed) as connection:
            receive(connection, "stream")
    server = feed.sink._server
    assert server is not None
    wait_until(lambda: not server.clients)
    wait_until(lambda: threading.active_count() <= threads)  # those of the clients end a little later
    assert (server.wants_video, server.wants_jpeg, server.joined) == (0, 0, 40)


# -- times -------------------------------------------------------------------------------------------------------


def test_the_pages_times_have_no_gap_and_keep_pace() -> None:
    timeline = _Timeline()
    pts = [0, 40, 80, 120, 5000, 5040, 5200, 5240, *range(5280, 9280, 40)]  # a pause, a lost frame
    spans = [timeline.add(replace(pair(0), pts=at, duration=40)) for at in pts]
    for (begin, duration), (after, _) in pairwise(spans):
        assert begin + duration == after
    assert spans[-1][1] == pytest.approx(3600, rel=0.01)
