"""The contracts' own logic: the passthrough and its branches, and what is printed of an address."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_sr.pipeline.packets import Passthrough
from stream_sr.system.printable import redact

SECRETS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="%"), min_size=4)


def test_a_branch_has_what_came_before_it_and_after() -> None:
    """A source reads ahead when it is opened, before the sinks are."""
    passthrough = Passthrough((), limit_bytes=10)
    assert passthrough.put(0, "one", 4)
    branch = passthrough.branch()
    assert passthrough.put(1, "two", 4)
    assert list(passthrough.take()) == [(0, "one"), (1, "two")]
    assert branch.bytes_held == 8
    assert not passthrough.put(0, "three", 4)  # the branch is full, and the passthrough says so though it is not
    assert list(branch.take()) == [(0, "one"), (1, "two")]
    passthrough.shut()
    assert passthrough.put(0, "four", 4)
    assert list(passthrough.take()) == []
    assert list(branch.take()) == [(0, "four")]


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("rtsp://cam.example/live", "rtsp://cam.example/live"),
        ("rtsp://10.0.0.9:554/live?channel=1&subtype=0", "rtsp://10.0.0.9:554/live?channel=1&subtype=0"),
        ("rtsp://[::1]:554/live", "rtsp://[::1]:554/live"),
        ("rtsp://@:8654/live", "rtsp://@:8654/live"),
        ("rtsp://@0.0.0.0:8654/live", "rtsp://@0.0.0.0:8654/live"),
        ("rtsp://@[::]:8654/live", "rtsp://@[::]:8654/live"),
        ("rtsp://cam/photo@2x", "rtsp://cam/photo@2x"),
        ("clip=1.mp4", "clip=1.mp4"),
        ("null:", "null:"),
        ("-", "-"),
    ],
)
def test_what_is_no_secret_is_printed(url: str, printed: str) -> None:
    assert redact(url) == printed


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("rtsp://admin:secret@cam:554/live", "rtsp://cam:554/live"),
        ("rtsp://admin@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:secret@[::1]:554/live", "rtsp://[::1]:554/live"),
        ("rtsp://admin:se/secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:12/secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:se@secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:s@se/secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:s?secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:s#secret@cam/live", "rtsp://cam/live"),
        ("rtsp://admin:s:secret@cam/live", "rtsp://cam/live"),
        ("rtsp://cam/live?user=admin&password=secret", "rtsp://cam/live?user=...&password=..."),
        ("rtsp://cam/live?channel=1&pwd=secret&x", "rtsp://cam/live?channel=1&pwd=...&x"),
        ("rtsp://cam/live?Token=secret", "rtsp://cam/live?Token=..."),
        ("rtsp://cam/user=admin&password=secret&channel=1", "rtsp://cam/user=...&password=...&channel=1"),
        ("rtsp://cam/user=admin_password=secret_stream=0.sdp", "rtsp://cam/user=..."),
        ("http://admin:secret@cam/x?key=secret==", "http://cam/x?key=..."),
    ],
)
def test_secrets_are_not_printed(url: str, printed: str) -> None:
    assert redact(url) == printed


@settings(deadline=None)
@given(user=SECRETS, password=SECRETS)
def test_no_user_and_no_password_comes_through(user: str, password: str) -> None:
    """Whatever is in a password; a user with a slash cannot be told from a host."""
    assume(not set(user) & set("/?#") and not user.startswith("@"))
    printed = redact(f"rtsp://{user}:{password}@cam.example:8554/live")
    assert printed == "rtsp://cam.example:8554/live"
    assert redact(printed) == printed
