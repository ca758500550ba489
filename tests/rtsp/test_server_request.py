"""Requests as our server reads them from the received bytes."""

import pytest

from stream_sr.rtsp.server_request import BODY_BYTES, REQUEST_BYTES, BadRequest, RtspRequest, parse_pair, take_request

OPTIONS = b"OPTIONS rtsp://h/x RTSP/1.0\r\nCSeq: 1\r\n\r\n"


def test_a_request_is_taken_when_it_is_complete() -> None:
    buffer = bytearray()
    for number in range(len(OPTIONS)):
        assert take_request(buffer) is None
        buffer.append(OPTIONS[number])
    buffer += OPTIONS[:5]
    assert take_request(buffer) == RtspRequest("OPTIONS", "rtsp://h/x", "RTSP/1.0", {"cseq": "1"})
    assert buffer == OPTIONS[:5]


def test_packets_before_a_request_and_its_body_are_removed() -> None:
    rtcp = b"$\x01\x00\x08" + b"\x80\xc9\x00\x01abcd"
    buffer = bytearray(rtcp + rtcp + OPTIONS[:-2] + b"Content-Length: 3\r\n\r\nabc" + rtcp[:7])
    request = take_request(buffer)
    assert request is not None
    assert request.headers == {"cseq": "1", "content-length": "3"}
    assert take_request(buffer) is None
    assert buffer == rtcp[:7]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"OPTIONS rtsp://h/x RTSP/1.0\r\nCSeq: x\r\n\r\n", 400),
        (b"OPTIONS rtsp://h/x RTSP/1.0\r\nContent-Length: -1\r\n\r\n", 400),
        (b"OPTIONS rtsp://[h/x RTSP/1.0\r\n\r\n", 400),
        (b"OPTIONS rtsp://h/x RTSP/1.0\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1), 413),
        (b"x" * (REQUEST_BYTES + 1), 413),
    ],
)
def test_a_bad_request_is_refused_with_its_status(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        take_request(bytearray(data))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("text", "pair"),
    [("4-5", (4, 5)), ("4", (4, 5)), ("255", None), ("0-256", None), ("", None), ("4-x", None), ("-1", None)],
)
def test_pairs_of_numbers(text: str, pair: tuple[int, int] | None) -> None:
    assert parse_pair(text, 255) == pair
