"""RTSP URLs and the URLs of tracks."""

import pytest

from stream_sr.rtsp.address import control_url, parse_address


def test_an_address_is_split() -> None:
    address = parse_address("rtsp://me:p%40%2Fss@cam.example:8554/live/1?channel=2#x")
    assert (address.host, address.port, address.user, address.password) == ("cam.example", 8554, "me", "p@/ss")
    assert address.url == "rtsp://cam.example:8554/live/1?channel=2"
    assert parse_address("rtsp://[::1]").url == "rtsp://[::1]/"
    assert parse_address("rtsp://h/x").port == 554
    assert parse_address("rtsps://:@h/x")[4:] == ("", "")


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
def test_an_invalid_address_is_reported_without_quoting_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_address(url)
    assert "top" not in str(caught.value)


def test_the_url_of_a_control() -> None:
    assert control_url("rtsp://h/a/", "track1") == "rtsp://h/a/track1"
    assert control_url("rtsp://h/a", "") == control_url("rtsp://h/a", "*") == "rtsp://h/a"
    assert control_url("rtsp://h/a", "rtsp://other/b") == "rtsp://other/b"
