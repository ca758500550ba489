"""The window: what is refused without a display, and on a real one what mouse, keys and the close button do."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from browser import HEIGHT, INFO, WIDTH, Picture, figures, from_png, pair, sides
from peers import need

from stream_sr.errors import SinkError, SinkOpenError
from stream_sr.pipeline.interfaces import Display, SinkOptions
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks import open_sink, window_process
from stream_sr.sinks import window as window_module
from stream_sr.system.memory import SHARED
from stream_sr.video.color import ColorInfo, guess_unknown
from stream_sr.video.frame import Frame
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import empty_planes
from stream_sr.video.quality import psnr

pytestmark = [pytest.mark.browser, pytest.mark.serial]


def test_without_a_display_the_window_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(SinkOpenError, match=r"DISPLAY is not set.*in a browser \(--web 8080"):
        open_sink("window:", SinkOptions())
    for display in (":7654", "nonsense"):
        monkeypatch.setenv("DISPLAY", display)
        with pytest.raises(SinkOpenError, match=f"the display {display} cannot be opened.*desktop session") as caught:
            open_sink("window:", SinkOptions())
        assert "\n" not in str(caught.value)


@contextlib.contextmanager
def fake_display(answer: bytes) -> Iterator[str]:
    """An X server that answers the first client with these bytes; its DISPLAY."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Worker("display", serve)
        yield f"127.0.0.1:{listener.getsockname()[1] - 6000}.0"
        assert worker.join(5)


def test_a_display_that_refuses_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = b"not \x1b[31m you"  # X protocol, chapter 8: failed, its length, version 11.0, length in words
    refusal = bytes([0, len(reason), 11, 0, 0, 0, 4, 0]) + reason.ljust(16, b"\0")
    with fake_display(refusal) as display:
        monkeypatch.setenv("DISPLAY", display)
        with pytest.raises(SinkOpenError, match=r"not \\x1b\[31m you; the display .* cannot be opened") as caught:
            open_sink("window:", SinkOptions())
    assert str(caught.value).isprintable()


def test_a_display_that_does_not_answer_is_waited_for_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DISPLAY", f"127.0.0.1:{silent.getsockname()[1] - 6000}")
        with pytest.raises(SinkOpenError, match=r"did not answer within 0\.5 s"):
            open_sink("window:", SinkOptions())


def test_too_little_shared_memory_is_refused_in_one_line(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has 64 MiB, as a rule. Writing into what is not there would kill the run (SIGBUS)."""
    if not SHARED.exists():
        pytest.skip("this system keeps shared memory elsewhere")
    monkeypatch.setattr("multiprocessing.shared_memory._make_filename", lambda: f"/psm_{os.getpid()}")
    with pytest.raises(SinkOpenError, match=r"786432 MiB of shared memory are needed.*--shm-size"):
        shown.begin(1 << 18, 1 << 18, 1, 1)
    assert not (SHARED / f"psm_{os.getpid()}").exists()
    assert shown._process.returncode == 0


def test_the_picture_of_the_window_has_the_streams_own_matrix_range_and_aspect() -> None:
    planes = empty_planes(64, 48)
    red_601, red_709 = (81, 90, 240), (63, 102, 240)  # full red in limited range, ITU-R BT.601 and BT.709
    full_grey = (0, 128, 128)
    for values, color, expected in (
        (red_601, ColorInfo(6, 1), (0, 0, 255)),
        (red_709, ColorInfo(1, 1), (0, 0, 255)),
        (full_grey, ColorInfo(6, 2), (0, 0, 0)),
        ((235, 128, 128), ColorInfo(6, 2), (235, 235, 235)),
        ((235, 128, 128), ColorInfo(6, 1), (255, 255, 255)),
    ):
        for plane, value in zip(planes, values, strict=True):
            plane[...] = value
        frame = Frame(planes, 0, Fraction(1, 25), color=color, sample_aspect=Fraction(4, 3))
        pixels = window_module.to_bgr(frame, Orientation.UPRIGHT, VideoReformatter())
        assert pixels.shape == (48, 85, 3)
        assert np.abs(pixels.astype(int) - expected).max() <= 2
    planes[0][:, :32], planes[0][:, 32:] = 16, 235
    turned = window_module.to_bgr(
        Frame(planes, 0, Fraction(1, 25), color=ColorInfo(6, 1)), Orientation.TURNED_90, VideoReformatter()
    )
    assert turned.shape == (64, 48, 3)
    assert turned[:28].max() < 20  # what was left is above after a quarter turn clockwise
    assert turned[36:].min() > 235


@pytest.mark.parametrize(("told", "red"), [(2, (81, 90, 240)), (1, (63, 102, 240))], ids=["untagged", "BT.709"])
def test_the_window_does_not_guess_colours_from_the_larger_size(told: int, red: tuple[int, int, int]) -> None:
    """The run writes on every frame what it guessed for its 320x180 input: BT.601, unless the input says another."""
    planes = empty_planes(1280, 720)
    for plane, value in zip(planes, red, strict=True):
        plane[...] = value
    color = guess_unknown(ColorInfo(told), width=320, height=180)
    frame = Frame(planes, 0, Fraction(1, 25), color=color)
    pixels = window_module.to_bgr(frame, Orientation.UPRIGHT, VideoReformatter())
    assert np.abs(pixels.astype(int) - (0, 0, 255)).max() <= 2


@pytest.fixture
def shown(desktop: Desktop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The process of a window that is not open yet."""
    try:
        process = window_module._WindowProcess("test", tmp_path_factory.mktemp("pictures"))
    except SinkOpenError as error:
        assert "install" in str(error)  # noqa: PT017 - OpenCV cannot be loaded here
        pytest.skip(str(error))
    yield process
    process.close()


def ended(descriptor: int) -> bool:
    """Whether the process of a pidfd ends within ten seconds."""
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_closing_a_window_that_was_never_opened_ends_its_process(shown: Any) -> None:
    process = os.pidfd_open(shown._process.pid)
    sink = window_module.WindowSink(SinkOptions())
    sink._process = shown
    sink.close()
    sink.close()
    assert ended(process)
    assert shown._process.returncode == 0


OWNER = """
import sys
from pathlib import Path
from stream_sr.sinks.window import _WindowProcess
shown = _WindowProcess("test", Path())
shown.begin(64, 48, 64, 48)
print(shown._process.pid, shown._memory.name, flush=True)
sys.stdin.read()
"""


def test_a_window_process_that_is_killed_is_reported(shown: Any) -> None:
    shown._process.kill()
    shown._process.wait()
    with pytest.raises(SinkOpenError, match="its process ended with code -9"):
        shown.begin(64, 48, 64, 48)


@pytest.mark.usefixtures("shown")
def test_the_windows_process_ends_with_a_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        number, name = owner.stdout.readline().split()
        process = os.pidfd_open(int(number))
        assert not (SHARED / name).exists()  # both have it open already, and nothing is left whatever ends
        owner.kill()
    assert ended(process)


# -- on a real display -------------------------------------------------------------------------------------------

SCREEN = (900, 700)


@dataclass
class Desktop:
    """Xvfb with a window manager, and what a person does there."""

    display: str
    asked: list[tuple[str, str]] = field(default_factory=list)

    def change(self, name: str, value: str) -> None:
        """The window's requests: it takes this desktop for its controls."""
        self.asked.append((name, value))

    def do(self, *words: str) -> str:
        return subprocess.run(["xdotool", *words], check=True, capture_output=True, text=True, timeout=30).stdout

    def window(self) -> dict[str, int]:
        """Place and size of the window's inside."""
        found = self.do("search", "--sync", "--onlyvisible", "--name", "^stream_sr$").split()[-1]
        text = subprocess.run(["xwininfo", "-id", found], check=True, capture_output=True, text=True, timeout=30).stdout
        words = {"X": "Absolute upper-left X", "Y": "Absolute upper-left Y", "WIDTH": "Width", "HEIGHT": "Height"}
        values = {key: int(text.partition(f"{word}:")[2].split()[0]) for key, word in words.items()}
        return values | {"WINDOW": int(found)}

    def grab(self) -> Picture:
        """What the window shows now, as RGB."""
        place = self.window()
        options = {"video_size": f"{place['WIDTH']}x{place['HEIGHT']}", "draw_mouse": "0", "framerate": "60"}
        with av.open(f"{self.display}+{place['X']},{place['Y']}", "r", format="x11grab", options=options) as screen:
            picture: Picture = next(screen.decode(video=0)).to_ndarray(format="rgb24").astype(np.uint8)
        return picture


def properties() -> str:
    """Of the root window: a window manager says there that it runs."""
    return subprocess.run(["xprop", "-root"], capture_output=True, text=True, timeout=30, check=False).stdout


@pytest.fixture(scope="module")
def desktop() -> Iterator[Desktop]:
    peers = (("Xvfb", "xvfb"), ("xdotool", "xdotool"), ("openbox", "openbox"), ("xwininfo", "x11-utils"))
    for program, package in peers:
        need(shutil.which(program) is not None, program, package)
    reader, writer = os.pipe()
    command = ["Xvfb", "-noreset", "-displayfd", str(writer), "-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24"]
    server = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.DEVNULL)
    os.close(writer)
    with open(reader) as numbers:
        display = f":{numbers.readline().strip()}"
    before = {name: os.environ.get(name) for name in ("DISPLAY", "XAUTHORITY")}
    os.environ |= {"DISPLAY": display, "XAUTHORITY": os.devnull}
    manager = subprocess.Popen(["openbox"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while "_NET_SUPPORTING_WM_CHECK(WINDOW)" not in properties():
        assert time.monotonic() < deadline
        if manager.poll() is not None:  # the display was not ready yet
            manager = subprocess.Popen(["openbox"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        select.select([], [], [], 0.05)
    yield Desktop(display)
    manager.terminate()
    manager.wait(10)
    server.terminate()
    server.wait(10)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class Showing:
    """A window that frames come into while the test waits for something."""

    def __init__(self, desktop: Desktop, folder: Path) -> None:
        self.desktop, self.folder, self.number, self.open = desktop, folder, 0, True
        self.sink: Any = window_module.WindowSink(SinkOptions(record_dir=folder))
        self.sink.take_controls(desktop)
        self.sink.open(INFO)

    def frame(self) -> None:
        self.open = self.sink.write(pair(self.number)) and self.open
        self.number += 1

    def until(self, condition: Callable[[], bool]) -> None:
        """Write frames, as slowly as a camera, until the condition is true."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            self.frame()
            select.select([], [], [], 0.03)

    def key(self, name: str) -> None:
        window = self.desktop.window()["WINDOW"]
        self.desktop.do("windowfocus", "--sync", str(window), "key", "--window", str(window), name)


@pytest.fixture
def showing(desktop: Desktop, tmp_path: Path) -> Iterator[Showing]:
    made = Showing(desktop, tmp_path)
    made.until(lambda: made.number > 5)
    yield made
    made.sink.close()


def holds(showing: Showing, cut: float | None) -> bool:
    """Whether the window shows the frame that was written last, split there (None: not at all)."""
    left, right = sides(pair(showing.number - 1))
    at = 0 if cut is None else round(cut * WIDTH)
    want = np.concatenate([left[:, :at], right[:, at:]], axis=1)
    seen = showing.desktop.grab()
    return seen.shape == want.shape and psnr(seen, want) > 30


def wait(condition: Callable[[], bool]) -> None:
    """Wait for what the window does while no frame comes."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def settled(showing: Showing, cut: float | None) -> None:
    """Wait until the window shows this; frames come one at a time, so that what is written last is what is seen."""
    showing.until(lambda: any(holds(showing, cut) for _ in range(10)))


def test_the_mouse_moves_the_line_and_s_takes_it_away(showing: Showing) -> None:
    assert isinstance(showing.sink, Display)
    settled(showing, 0.5)
    place = showing.desktop.window()
    row = place["Y"] + HEIGHT // 2
    showing.desktop.do("mousemove", str(place["X"] + WIDTH // 2), str(row), "mousedown", "1")
    showing.desktop.do("mousemove", str(place["X"] + WIDTH // 4), str(row), "mouseup", "1")
    settled(showing, 0.25)
    showing.key("s")
    settled(showing, None)
    showing.key("s")
    settled(showing, 0.25)


def test_space_holds_the_picture_and_p_saves_both_sides(showing: Showing, tmp_path: Path) -> None:
    settled(showing, 0.5)
    showing.key("space")
    held = showing.number
    showing.until(lambda: showing.number > held + 5)
    showing.key("p")
    showing.until(lambda: any(tmp_path.iterdir()))
    (path,) = tmp_path.iterdir()
    showing.until(lambda: path.read_bytes().endswith(b"IEND\xaeB`\x82"))  # written to its end
    assert path.name.startswith("stream_sr-")
    assert path.suffix == ".png"
    sheet = from_png(path.read_bytes())
    assert sheet.shape == (HEIGHT, 2 * WIDTH, 3)
    found = [number for number in range(showing.number) if psnr(sheet[:, WIDTH:], sides(pair(number))[1]) > 30]
    assert len(found) == 1
    assert psnr(sheet[:, :WIDTH], sides(pair(found[0]))[0]) > 30
    showing.key("space")
    settled(showing, 0.5)


def test_keys_ask_for_models_and_recordings(showing: Showing) -> None:
    showing.desktop.asked.clear()
    showing.sink.show_figures(figures())
    showing.key("2")
    showing.until(lambda: showing.desktop.asked == [("model", "fast")])
    showing.key("r")
    showing.until(lambda: showing.desktop.asked[1:] == [("record", "on")])
    showing.sink.show_figures(figures(recording=True))
    showing.key("r")
    showing.until(lambda: showing.desktop.asked[2:] == [("record", "off")])


NO_LETTERS = (
    "Left", "Right", "Up", "Down", "Home", "End", "Prior", "Next", "Insert", "Delete", "F1", "F2", "F11", "F12",
    "KP_Left", "KP_Right", "KP_Up", "KP_Down", "KP_Home", "KP_End", "KP_Prior", "KP_Next", "KP_Insert", "KP_Delete",
    "Shift_L", "Shift_R", "Control_L", "Control_R", "Alt_L", "Super_L", "Menu", "Pause", "Scroll_Lock", "BackSpace",
    "ctrl+q", "ctrl+r", "shift+Up", "eacute", "adiaeresis", "ntilde", "dead_acute", "EuroSign", "plusminus",
    "Cyrillic_shcha", "Greek_alpha", "XF86AudioPlay",
)  # fmt: skip


def test_only_letters_act_as_letters_while_a_recording_runs(showing: Showing) -> None:
    """By 8 bits Left is Q (0xFF51, quits), Up is R (0xFF52, records), Right is S, Home is P and F1 a letter too."""
    settled(showing, 0.5)
    showing.desktop.asked.clear()
    showing.sink.show_figures(figures(recording=True))
    window = showing.desktop.window()["WINDOW"]
    for name in NO_LETTERS:
        showing.desktop.do("windowfocus", "--sync", str(window), "key", "--window", str(window), name)
        showing.frame()
    showing.key("2")  # keys arrive in order: those before it have been handled
    showing.until(lambda: bool(showing.desktop.asked))
    assert showing.desktop.asked == [("model", "fast")]
    assert showing.open
    assert not list(showing.folder.iterdir())


def test_arrow_keys_home_and_end_move_the_line(showing: Showing) -> None:
    settled(showing, 0.5)
    for name, cut in (
        ("Left", 0.48), ("Left", 0.46), ("Right", 0.48), ("Up", 0.48), ("Down", 0.48), ("KP_Right", 0.5),
        ("Home", 0.0), ("Left", 0.0), ("Right", 0.02), ("End", 1.0), ("Right", 1.0), ("Left", 0.98),
    ):  # fmt: skip
        showing.key(name)
        settled(showing, cut)
    showing.key("space")
    showing.key("Home")
    held = showing.number
    showing.until(lambda: showing.number > held + 5)
    showing.key("End")
    showing.key("space")
    settled(showing, 1.0)


@pytest.mark.parametrize(
    ("code", "key", "shift"),
    [
        (ord("q"), ord("q"), False), (ord("Q"), ord("q"), False), (27, 27, False), (-1, -1, False), (0, -1, False),
        (0xFF51, 0xFF51, False), (0xE9, 0xE9, False), (-0x4F, -1, False), (0x1008FF14, -1, False),
        (0x1010071, -1, False),  # U+10071 as a keysym
        # GTK adds the state of the modifiers: Shift, Caps Lock and Num Lock leave a letter, Control, Alt, Super do not
        (0x10071, ord("q"), True), (0x20051, ord("q"), False), (0x100071, ord("q"), False),
        (0x20100071, ord("q"), False),
        (0x40071, -1, False), (0x80072, -1, False), (0x400072, -1, False), (0x1FF51, 0xFF51, True),
    ],
)  # fmt: skip
def test_codes_of_both_window_libraries(code: int, key: int, shift: bool) -> None:
    assert window_process.decode(code) == (key, shift)


def test_what_is_shown_is_not_overwritten_by_the_next_frame(showing: Showing) -> None:
    """The parent fills the buffer that it was handed while the window draws again: for a key, the mouse, a notice."""
    settled(showing, 0.5)
    process = showing.sink._process
    for _ in range(2):  # in both buffers
        process._buffers[process._free] = 255  # as if the next frame were half written
        for name, cut in (("Left", 0.48), ("Right", 0.5)):
            showing.key(name)
            wait(lambda cut=cut: holds(showing, cut))  # type: ignore[misc]
        showing.frame()
        wait(lambda: holds(showing, 0.5))


def test_a_pause_keeps_both_sides(showing: Showing) -> None:
    """The split may be off while frames come: they have one side then, the paused ones two."""
    settled(showing, 0.5)
    paused = showing.number - 1
    for name in ("space", "s"):
        showing.key(name)
    showing.until(lambda: not showing.sink._process.wants_both)
    showing.key("s")
    for name in ("h", "h"):
        showing.key(name)
    middle = slice(2 * HEIGHT // 3, None)  # below the notice
    left, right = sides(pair(paused))
    want = np.concatenate([left[:, : WIDTH // 2], right[:, WIDTH // 2 :]], axis=1)
    showing.until(lambda: psnr(showing.desktop.grab()[middle], want[middle]) > 30)


def test_the_buffer_that_is_shown_is_never_handed_to_the_parent(tmp_path: Path) -> None:
    window: Any = window_process.ComparisonWindow(None, "test", tmp_path)
    window.memory = np.zeros((2, 2, 4, 6, 3), np.uint8)
    window.draw = lambda: None
    for number in range(5):
        buffer = window.free
        assert buffer != window.buffer
        window.memory[buffer] = number
        window.take(buffer, True, "")
        pictures, both = window.pictures()
        assert (int(pictures.max()), both) == (number, True)


def test_shift_moves_the_line_in_larger_steps_where_it_is_reported(tmp_path: Path) -> None:
    window: Any = window_process.ComparisonWindow(None, "test", tmp_path)
    window.draw = lambda: None
    window.press(0x1FF51)
    assert window.split == pytest.approx(0.4)
    window.press(0xFF53)
    assert window.split == pytest.approx(0.42)


def test_two_keys_between_frames_are_both_kept(tmp_path: Path) -> None:
    window: Any = window_process.ComparisonWindow(None, "test", tmp_path)
    for letter in "rq":
        window.press(ord(letter))
    assert list(window.keys) == [ord("r"), ord("q")]


def test_figures_and_help_stand_on_the_picture(showing: Showing) -> None:
    settled(showing, 0.5)
    showing.key("s")
    settled(showing, None)
    showing.sink.show_figures(figures())
    showing.until(lambda: psnr(showing.desktop.grab()[:120, :300], sides(pair(showing.number - 1))[1][:120, :300]) < 20)
    showing.key("i")
    settled(showing, None)
    showing.key("h")
    showing.until(lambda: not holds(showing, None))
    showing.key("h")
    settled(showing, None)


def test_f_fills_the_screen_and_keeps_the_shape(showing: Showing) -> None:
    showing.key("f")
    showing.until(lambda: showing.desktop.window()["WIDTH"] >= SCREEN[0] - 2)
    showing.key("f")
    showing.until(lambda: showing.desktop.window()["WIDTH"] == WIDTH)


def test_without_pictures_it_says_so(showing: Showing) -> None:
    settled(showing, 0.5)
    before = showing.desktop.grab()
    deadline = time.monotonic() + 30
    while (showing.desktop.grab() == before).all():  # nothing is written
        assert time.monotonic() < deadline
        select.select([], [], [], 0.1)
    changed = (showing.desktop.grab() != before).any(axis=2)
    assert changed[HEIGHT // 3 : 2 * HEIGHT // 3, WIDTH // 3 : 2 * WIDTH // 3].any()
    assert not changed[: HEIGHT // 4].any()


@pytest.mark.parametrize("how", ["q", "Escape", "button"])
def test_it_is_closed_by_a_key_or_by_its_button(showing: Showing, how: str) -> None:
    if how == "button":
        place = showing.desktop.window()
        showing.desktop.do("mousemove", str(place["X"] + place["WIDTH"] - 10), str(place["Y"] - 10), "click", "1")
    else:
        showing.key(how)
    showing.until(lambda: not showing.open)


def test_a_display_that_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("Xvfb") is not None, "Xvfb", "xvfb")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-noreset", "-displayfd", str(writer), "-screen", "0", "640x480x24"],
        pass_fds=(writer,),
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with open(reader) as numbers:
        monkeypatch.setenv("DISPLAY", f":{numbers.readline().strip()}")
    monkeypatch.setenv("XAUTHORITY", os.devnull)
    sink: Any = open_sink("window:", SinkOptions())
    try:
        assert sink._process.screen == (640, 480)
        sink.open(INFO)
        for number in range(5):
            assert sink.write(pair(number)) is True
        server.terminate()
        server.wait(10)
        with pytest.raises(SinkError, match="window is gone"):
            for number in range(500):
                sink.write(pair(number))
    finally:
        sink.close()
        sink.close()
        server.kill()
        server.wait(10)
