"""Authentication of RTSP, without a network."""

import hashlib
import re

import pytest

from stream_sr.rtsp.auth import ClientAuth, ServerAuth


def test_the_digest_of_the_standards() -> None:
    """RFC 2069, 2.4, with the response as its errata have it."""
    old = ClientAuth("Mufasa", "CircleOfLife")
    assert old.take_challenge(
        ['Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="x"']
    )
    sent = old.authorization("GET", "/dir/index.html")
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in sent
    assert sent.startswith('Digest username="Mufasa", realm="testrealm@host.com"')
    assert 'opaque="x"' in sent
    assert "qop" not in sent


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_digest_with_qop_can_be_checked_by_the_server(algorithm: str) -> None:
    """Checked the way a server computes it (RFC 7616, 3.4.1)."""
    auth = ClientAuth("me", "secret")
    assert auth.take_challenge([f'Digest realm="r", nonce="n", qop="auth,auth-int", algorithm={algorithm}'])

    def digest(text: str) -> str:
        return hashlib.new(algorithm.replace("-", "").lower(), text.encode()).hexdigest()

    for count in ("00000001", "00000002"):
        sent = auth.authorization("PLAY", "rtsp://h/x")
        own = re.search(r'cnonce="(\w+)"', sent)
        assert own is not None
        expected = digest(f"{digest('me:r:secret')}:n:{count}:{own[1]}:auth:{digest('PLAY:rtsp://h/x')}")
        assert f'response="{expected}"' in sent
        assert f"nc={count}" in sent


def test_digest_goes_before_basic() -> None:
    auth = ClientAuth("me", "secret")
    assert auth.authorization("PLAY", "rtsp://h/x") == ""
    assert auth.take_challenge(['Basic realm="r"', 'Digest realm="r", nonce="n"'])
    assert auth.authorization("PLAY", "rtsp://h/x").startswith("Digest ")
    two = ClientAuth("me", "secret")
    assert two.take_challenge(['Digest realm="r", nonce="1"', 'Digest realm="r", nonce="2", algorithm=SHA-512-256'])
    assert 'nonce="1"' in two.authorization("PLAY", "rtsp://h/x")
    basic = ClientAuth("me", "")
    assert basic.take_challenge(['Basic realm="r"'])
    assert basic.authorization("PLAY", "rtsp://h/x") == "Basic bWU6"


def test_a_refusal_is_final_but_an_aged_nonce_is_not() -> None:
    auth = ClientAuth("me", "wrong")
    assert auth.take_challenge(['Digest realm="r", nonce="1"'])
    assert not auth.take_challenge(['Digest realm="r", nonce="2"'])
    auth.accepted()
    assert auth.take_challenge(['Digest realm="r", nonce="3", stale=true'])
    assert 'nonce="3"' in auth.authorization("PLAY", "rtsp://h/x")
    assert not ClientAuth(None, None).take_challenge(['Basic realm="r"'])
    assert not ClientAuth("me", "x").take_challenge([])
    assert not ClientAuth("me", "x").take_challenge(['Digest realm="r", nonce="1", algorithm=MD4'])
    assert not ClientAuth("me", "x").take_challenge(["Negotiate"])


def test_the_server_accepts_what_the_client_sends() -> None:
    server, client = ServerAuth("me", "secret"), ClientAuth("me", "secret")
    assert not server.is_authorized("PLAY", "rtsp://h/x", "")
    assert client.take_challenge([server.challenge])
    authorization = client.authorization("PLAY", "rtsp://h/x")
    assert server.is_authorized("PLAY", "rtsp://h/x", authorization)
    assert not server.is_authorized("DESCRIBE", "rtsp://h/x", authorization)
    assert not server.is_authorized("PLAY", "rtsp://h/y", authorization)
    assert not ServerAuth("me", "secret").is_authorized("PLAY", "rtsp://h/x", authorization)  # another nonce
    assert ServerAuth(None, None).is_authorized("PLAY", "rtsp://h/x", "")
