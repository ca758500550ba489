"""Addresses and challenges of RTSP, without a network."""

import hashlib
import re

import pytest

from stream_sr.rtsp.auth import Access, join_control, parse_target


def test_an_address_is_taken_apart() -> None:
    target = parse_target("rtsp://me:p%40%2Fss@cam.example:8554/live/1?channel=2#x")
    assert (target.host, target.port, target.user, target.password) == ("cam.example", 8554, "me", "p@/ss")
    assert target.url == "rtsp://cam.example:8554/live/1?channel=2"
    assert parse_target("rtsp://[::1]").url == "rtsp://[::1]/"
    assert parse_target("rtsp://h/x").port == 554
    assert parse_target("rtsps://:@h/x")[4:] == ("", "")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("rtsp://me:top/secret@cam/live", "%2F"),
        ("rtsp://h:99999/x", "port"),
        ("rtsp://[::1/x", "cannot be read"),
        ("rtsp:///x", "host is missing"),
        ("rtsp://h:0/x", "port 0"),
        ("rtsp://h/a b", "%20"),
        ("http://h/x", "rtsp://"),
    ],
)
def test_what_is_no_address_is_told_without_quoting_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_target(url)
    assert "top" not in str(caught.value)


def test_controls_are_joined() -> None:
    assert join_control("rtsp://h/a/", "track1") == "rtsp://h/a/track1"
    assert join_control("rtsp://h/a", "") == join_control("rtsp://h/a", "*") == "rtsp://h/a"
    assert join_control("rtsp://h/a", "rtsp://other/b") == "rtsp://other/b"


def test_the_digest_of_the_standards() -> None:
    """RFC 2069, 2.4, with the response as its errata have it."""
    old = Access("Mufasa", "CircleOfLife")
    assert old.challenged(['Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="x"'])
    said = old.authorization("GET", "/dir/index.html")
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in said
    assert said.startswith('Digest username="Mufasa", realm="testrealm@host.com"')
    assert 'opaque="x"' in said
    assert "qop" not in said


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_digest_with_qop_can_be_checked_by_the_server(algorithm: str) -> None:
    """Checked the way a server computes it (RFC 7616, 3.4.1)."""
    access = Access("me", "secret")
    assert access.challenged([f'Digest realm="r", nonce="n", qop="auth,auth-int", algorithm={algorithm}'])

    def digest(text: str) -> str:
        return hashlib.new(algorithm.replace("-", "").lower(), text.encode()).hexdigest()

    for count in ("00000001", "00000002"):
        said = access.authorization("PLAY", "rtsp://h/x")
        own = re.search(r'cnonce="(\w+)"', said)
        assert own is not None
        expected = digest(f"{digest('me:r:secret')}:n:{count}:{own[1]}:auth:{digest('PLAY:rtsp://h/x')}")
        assert f'response="{expected}"' in said
        assert f"nc={count}" in said


def test_digest_goes_before_basic() -> None:
    access = Access("me", "secret")
    assert access.authorization("PLAY", "rtsp://h/x") == ""
    assert access.challenged(['Basic realm="r"', 'Digest realm="r", nonce="n"'])
    assert access.authorization("PLAY", "rtsp://h/x").startswith("Digest ")
    two = Access("me", "secret")
    assert two.challenged(['Digest realm="r", nonce="1"', 'Digest realm="r", nonce="2", algorithm=SHA-512-256'])
    assert 'nonce="1"' in two.authorization("PLAY", "rtsp://h/x")
    basic = Access("me", "")
    assert basic.challenged(['Basic realm="r"'])
    assert basic.authorization("PLAY", "rtsp://h/x") == "Basic bWU6"


def test_a_refusal_is_final_but_an_aged_nonce_is_not() -> None:
    access = Access("me", "wrong")
    assert access.challenged(['Digest realm="r", nonce="1"'])
    assert not access.challenged(['Digest realm="r", nonce="2"'])
    access.accepted()
    assert access.challenged(['Digest realm="r", nonce="3", stale=true'])
    assert 'nonce="3"' in access.authorization("PLAY", "rtsp://h/x")
    assert not Access(None, None).challenged(['Basic realm="r"'])
    assert not Access("me", "x").challenged([])
    assert not Access("me", "x").challenged(['Digest realm="r", nonce="1", algorithm=MD4'])
    assert not Access("me", "x").challenged(["Negotiate"])
