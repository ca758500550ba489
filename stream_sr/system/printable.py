"""Text from cameras, files and networks made safe for terminals, logs and displays.

Such text may hold control sequences that move the cursor, set the window's title or answer for the user, line breaks
that forge log lines, directional overrides that show other text than there is (Unicode TR 36, 3.1), bytes of a file
name that are no text, or a megabyte. Everything that is printed passes here once. JSON has its own escapes.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 500  # characters of a message; of a longer one the middle is left out
HEAD = 300
ELLIPSIS = " ... "
# Cc: C0, DEL and C1 controls. Cf: overrides, isolates and marks of direction, invisible characters. Cs: lone
# surrogates (undecodable bytes). Zl, Zp: line and paragraph separators.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
KEPT = frozenset("\u200c\u200d")  # joiners, which some scripts need


def printable(text: object, *, longest: int | None = LONGEST) -> str:
    """Return ``text`` as one line that changes nothing but its own place: what could is escaped as in Python.

    ``\\n``, ``\\x1b``, ``\\u202e``; an undecodable byte of a file name (PEP 383) as ``\\xff``. Of a result longer than
    ``longest`` characters the middle is left out (None: nothing is).
    """
    line = str(text)
    if not (line.isascii() and line.isprintable()):
        line = "".join(_escaped(one) if unicodedata.category(one) in ESCAPED else one for one in line)
    if longest is None or len(line) <= longest:
        return line
    head = HEAD * longest // LONGEST
    return line[:head] + ELLIPSIS + line[head + len(line) - longest + len(ELLIPSIS) :]


def printable_lines(text: object) -> str:
    """Return text of several lines with each as `printable` makes it, of any length: a table or a report of ours."""
    return "\n".join(printable(line, longest=None) for line in str(text).split("\n"))


def _escaped(character: str) -> str:
    code = ord(character)
    if character in KEPT:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


# What may be read in a query; every other value may be a secret under some camera's name for it.
_HARMLESS = {
    "channel", "subtype", "stream", "streamtype", "profile", "camera", "resolution", "width", "height", "fps", "codec",
    "videocodec", "audio", "transport", "unicast", "proto",
}  # fmt: skip


def redact(url: str) -> str:
    """A URL without user and password, for printing: neither in front of the host nor as ``name=value`` behind it.

    Where it cannot be told what is password and what is path (a password with ``/``, ``?``, ``#`` or ``@`` in it, that
    should have been written with %), more is left out rather than less.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    plain = re.fullmatch(r"@?(\[[^@\]]*\]|[^@:]*)(:\d*)?", authority)
    portlike = ":" in authority and not authority.startswith("@")  # rtsp://user:12/34@host is no port
    if not plain or (portlike and "@" in rest):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{_without_values(rest)}"


def _without_values(text: str) -> str:
    def shown(pair: re.Match[str]) -> str:
        return pair[0] if pair[1].lower() in _HARMLESS else f"{pair[1]}=..."

    return re.sub(r"([^=&;/?#]*)=([^&;/?#]*)", shown, text)
