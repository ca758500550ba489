"""The page in a real browser: what is on the canvas against what was sent, and everything that a person can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import (
    BASE,
    HEIGHT,
    INFO,
    WIDTH,
    Feed,
    Picture,
    canvas,
    chromium,
    figures,
    from_png,
    luma,
    pair,
    sides,
    wait_for,
    wait_for_pictures,
)
from peers import need

from stream_sr.codec.rgb import to_rgb
from stream_sr.codec.side_by_side import arrange
from stream_sr.errors import ConfigError
from stream_sr.video import barcode
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.quality import psnr

pytestmark = [pytest.mark.network, pytest.mark.browser, pytest.mark.serial]

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

LEAST_DB = 35.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need(sync_playwright is not None, "playwright", "python3-pip, then pip install playwright")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def feed() -> Iterator[Feed]:
    with Feed() as running:
        yield running


@pytest.fixture
def page(browser: Any, feed: Feed) -> Iterator[Any]:
    yield from open_page(browser, feed.url)


def open_page(browser: Any, url: str, *, script: str = "", **options: Any) -> Iterator[Any]:
    """A page that plays, whose errors are the test's."""
    context = browser.new_context(**({"viewport": {"width": 1000, "height": 700}} | options))
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    if script:
        page.add_init_script(script)
    page.goto(url)
    wait_for_pictures(page)
    yield page
    context.close()
    assert errors == []


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the picture, in parts of its size."""
    box = page.locator("#stage").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def set_split(page: Any, part: float) -> None:
    drag(page, (page.evaluate("streamSr.view.split"), 0.5), (part, 0.5))


def pause(page: Any) -> None:
    page.keyboard.press("Space")
    wait_for(page, "streamSr.view.paused")


def shown_frame(page: Any, picture: Picture) -> Frame:
    """The frame that is on the canvas, by its barcode; both parts of which come from the same frame."""
    reading = barcode.read(luma(picture))
    assert reading is not None, "the two sides do not make one barcode"
    # a video may be a frame ahead of what the browser tells of it
    assert reading.sequence - page.evaluate("streamSr.shown.number") in (0, 1)
    return pair(reading.sequence, reading.clock_units * barcode.UNIT_NS)


def assert_sides(picture: Picture, frame: Frame, cut: int) -> None:
    """Left of the cut bicubic, right of it ours: near to what was sent, and nearer to it than to the other."""
    left, right = sides(frame)
    for own, other, part in ((left, right, slice(0, cut)), (right, left, slice(cut, None))):
        if picture[:, part].size:
            near, far = psnr(picture[:, part], own[:, part]), psnr(picture[:, part], other[:, part])
            assert near >= LEAST_DB
            assert near > far + 3


def test_left_of_the_line_is_bicubic_and_right_of_it_ours_in_step(page: Any) -> None:
    for part in (0.5, 0.25, 0.75):
        set_split(page, part)
        wait_for_pictures(page)
        picture = canvas_at_rest(page)
        assert picture.shape == (HEIGHT, WIDTH, 3)
        cut = round(page.evaluate("streamSr.view.split") * WIDTH)
        assert abs(cut - part * WIDTH) < 8
        assert_sides(picture, shown_frame(page, picture), cut)
        pause(page) if page.evaluate("streamSr.view.paused") is False else page.keyboard.press("Space")


def test_at_no_moment_are_the_two_sides_of_two_frames(page: Any) -> None:
    """Each side carries half of every cell row of the barcode, and its checksum is over both."""
    set_split(page, 0.5)
    for _ in range(20):
        assert barcode.read(luma(canvas(page))) is not None


def canvas_at_rest(page: Any) -> Picture:
    """Pause and read: the canvas and the number of its frame belong together then."""
    pause(page)
    return canvas(page)


def test_pause_holds_both_sides_and_the_line_still_moves(page: Any, feed: Feed) -> None:
    picture = canvas_at_rest(page)
    frame = shown_frame(page, picture)
    before = feed.number
    wait_for_number(page, feed, before + 5)
    assert (canvas(page) == picture).all()
    page.keyboard.press("ArrowRight")
    wait_for(page, "streamSr.view.split > 0.5")
    assert_sides(canvas(page), frame, round(page.evaluate("streamSr.view.split") * WIDTH))
    for key, split in (("Shift+ArrowLeft", 0.42), ("ArrowLeft", 0.4), ("Home", 0), ("End", 1)):
        page.keyboard.press(key)
        assert page.evaluate("streamSr.view.split") == pytest.approx(split)
    for key in ("ArrowUp", "ArrowDown", "F2", "Insert", "PageUp", "Control", "Alt", "Alt+s", "Meta+s"):
        page.keyboard.press(key)
        assert page.evaluate("[streamSr.view.split, streamSr.view.splitOn, streamSr.view.paused]") == [1, True, True]
    page.keyboard.press("s")
    assert_sides(canvas(page), frame, 0)
    page.keyboard.press("s")
    page.get_by_role("button", name="Go on").click()
    wait_for_pictures(page)
    assert page.evaluate("streamSr.shown.number") > frame.number


def test_a_picture_that_is_held_keeps_the_name_of_what_made_it(browser: Any) -> None:
    with Feed() as feed:
        for page in open_page(browser, feed.url):
            feed.sink.show_figures(figures("tiny"))
            wait_for(page, "document.getElementById('right').textContent.includes('tiny')")
            pause(page)
            feed.sink.show_figures(figures("fast"))
            wait_for(page, "document.getElementById('figures').textContent.includes('fast')")
            assert "tiny" in page.locator("#right").inner_text()
            page.get_by_role("button", name="Go on").click()
            wait_for(page, "document.getElementById('right').textContent.includes('fast')")


def wait_for_number(page: Any, feed: Feed, number: int) -> None:
    while feed.number < number:
        page.wait_for_timeout(20)


def test_zoom_shows_a_detail_of_both_sides(page: Any) -> None:
    picture = canvas_at_rest(page)
    left, right = sides(shown_frame(page, picture))
    page.locator("#stage").dblclick(position={"x": 300, "y": 150})
    wait_for(page, "streamSr.view.zoom === 4")
    view = page.evaluate("streamSr.view")
    detail = canvas(page)
    x, y = round(view["x"] * WIDTH - WIDTH / 8), round(view["y"] * HEIGHT - HEIGHT / 8)
    cut = round(view["split"] * WIDTH)
    for own, part in ((left, slice(8, cut - 8)), (right, slice(cut + 8, -8))):
        large = own[y : y + HEIGHT // 4, x : x + WIDTH // 4].repeat(4, axis=0).repeat(4, axis=1)
        assert psnr(detail[:, part], large[:, part]) > 25  # the view may lie half a pixel beside
    drag(page, (0.2, 0.5), (0.4, 0.5))
    assert page.evaluate("streamSr.view.x") < view["x"]
    page.keyboard.press("0")
    assert page.evaluate("streamSr.view.zoom") == 1
    assert (canvas(page) == picture).all()


def test_the_pair_is_saved_as_png(page: Any, tmp_path: Path) -> None:
    picture = canvas_at_rest(page)
    frame = shown_frame(page, picture)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "pair.png")
    assert download.value.suggested_filename == f"stream_sr-{page.evaluate('streamSr.shown.number')}.png"
    sheet = from_png((tmp_path / "pair.png").read_bytes())
    assert sheet.shape == (HEIGHT, 2 * WIDTH, 3)
    left, right = sides(frame)
    assert psnr(sheet[:, :WIDTH], left) >= LEAST_DB
    assert psnr(sheet[:, WIDTH:], right) >= LEAST_DB


def test_without_media_source_extensions_the_page_takes_jpeg(browser: Any, feed: Feed) -> None:
    for page in open_page(browser, feed.url, script="delete window.MediaSource; delete window.ManagedMediaSource"):
        assert page.evaluate("streamSr.jpeg") is True
        picture = canvas_at_rest(page)
        assert_sides(picture, shown_frame(page, picture), WIDTH // 2)


def test_two_viewers_see_the_same_stream(browser: Any, feed: Feed, page: Any) -> None:
    for other in open_page(browser, feed.url):
        for one in (page, other):
            wait_for_pictures(one, 8)
            picture = canvas_at_rest(one)
            assert_sides(picture, shown_frame(one, picture), WIDTH // 2)


def test_the_page_comes_back_after_a_restart_and_says_so_meanwhile(browser: Any) -> None:
    first = Feed()
    port = first.sink.port
    try:
        for page in open_page(browser, first.url):
            first.close()
            wait_for(page, "document.getElementById('notice').textContent.includes('no connection')")
            with Feed(port, first=5000):
                wait_for(page, "streamSr.shown.number >= 5000")
                wait_for_pictures(page)
                assert page.locator("#notice").is_hidden()
    finally:
        first.close()


def test_a_silent_source_is_said(browser: Any) -> None:
    with Feed() as feed:
        for page in open_page(browser, feed.url):
            feed.sink.show_figures(figures())
            wait_for(page, "document.getElementById('figures').textContent.includes('to this page')")
            feed.held.set()
            wait_for(page, "document.getElementById('notice').textContent === 'no signal'")
            feed.sink.show_figures(figures("fast"))
            wait_for(page, "document.getElementById('figures').textContent.includes('fast')")
            assert "to this page" not in page.locator("#figures").inner_text(), "a latency of nothing"
            feed.held.clear()
            wait_for(page, "document.getElementById('notice').hidden")


def test_on_a_phone_everything_is_within_reach_of_a_finger(browser: Any, feed: Feed) -> None:
    phone: dict[str, Any] = {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 3,
    }
    for page in open_page(browser, feed.url, **phone):
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        for button in page.get_by_role("toolbar").get_by_role("button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
            assert box["height"] >= 32
        box = page.locator("#stage").bounding_box()
        fingers = page.context.new_cdp_session(page)
        for kind, x in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.2), ("touchEnd", None)):
            where = {"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] / 2} if x else None
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [where] if where else []})
        wait_for(page, "Math.abs(streamSr.view.split - 0.2) < 0.03")


class Asked:
    """Controls that only remember what they were asked for."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []

    def change(self, name: str, value: str) -> None:
        if value == "bad":
            raise ConfigError("that cannot be")
        self.changes.append((name, value))


def test_controls_ask_for_changes_and_show_what_is(browser: Any) -> None:
    asked = Asked()
    with Feed(controls=asked) as feed:
        for page in open_page(browser, feed.url):
            feed.sink.show_figures(figures())
            wait_for(page, "document.getElementById('figures').textContent.includes('tiny')")
            text = page.locator("#figures").inner_text()
            for part in (
                "15.0, 14.5",
                "12.3",
                "overload 3",
                "corrupt packets 1",
                "33 %, GPU X",
                "150 MiB",
                "10 %, 20 %",
            ):
                assert part in text
            page.get_by_label("Model").select_option("fast")
            page.keyboard.press("Escape")
            wait_until(page, lambda: ("model", "fast") in asked.changes)
            page.locator("h1").click()
            page.keyboard.press("1")
            wait_until(page, lambda: asked.changes[-1] == ("model", "tiny"))
            page.get_by_role("button", name="Record").click()
            wait_until(page, lambda: asked.changes[-1] == ("record", "on"))
            feed.sink.show_figures(figures("fast", recording=True))
            page.get_by_role("button", name="Stop recording").click()
            wait_until(page, lambda: asked.changes[-1] == ("record", "off"))
            page.get_by_label("Model").select_option("bad")
            wait_for(page, "document.getElementById('words').textContent.includes('cannot be')")
            feed.sink.show_figures(figures("tiny"))
            wait_for(page, "document.getElementById('set-model').value === 'tiny'")
            assert "cannot be" in page.locator("#words").inner_text()  # long enough to be read


def wait_until(page: Any, condition: Any) -> None:
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("the page did not ask")


def test_a_read_only_page_has_no_controls_but_the_view(browser: Any) -> None:
    with Feed(controls=Asked(), web_read_only=True) as feed:
        for page in open_page(browser, feed.url):
            feed.sink.show_figures(figures())
            wait_for(page, "document.getElementById('figures').textContent.includes('tiny')")
            assert page.locator("#controls").is_hidden()
            assert page.locator("#record").is_hidden()


def test_the_password_lets_the_page_and_its_stream_in(browser: Any) -> None:
    with Feed(viewer_user="me", viewer_password="a word") as feed:
        login = {"username": "me", "password": "a word"}
        for page in open_page(browser, feed.url, http_credentials=login):
            wait_for_pictures(page)


@pytest.mark.parametrize("matrix", [Matrix.SMPTE170M, Matrix.BT470BG, Matrix.BT709], ids=lambda matrix: matrix.name)
@pytest.mark.parametrize("range_", [Range.LIMITED, Range.FULL], ids=lambda range_: range_.name)
def test_colours_are_those_of_the_source(browser: Any, matrix: Matrix, range_: Range) -> None:
    """Bars of known colours, both sides, at most three levels away in any channel."""
    primaries = {Matrix.SMPTE170M: 6, Matrix.BT470BG: 5, Matrix.BT709: 1}[matrix]
    color = ColorInfo(matrix, range_, primaries, 1 if matrix == Matrix.BT709 else 6, Siting.LEFT)
    info = StreamInfo(320, 180, BASE, Fraction(15), color=color, live=True)

    def make(number: int, clock_ns: int) -> Frame:
        parts = [bars(*size, number, color) for size in ((160, 90), (320, 180))]
        return replace(parts[1], source=parts[0], captured_ns=clock_ns)

    wanted = to_rgb(bars(320, 180, 0, color))
    with Feed(make=make, info=info) as feed:
        for page in open_page(browser, feed.url):
            wait_for_pictures(page, 5)
            shown = canvas_at_rest(page)
    inner = np.arange(320) % 40  # a bar is 40 wide; at its edges bicubic is between two
    middle = (inner > 8) & (inner < 32)
    assert np.abs(shown[20:160, middle].astype(int) - wanted[20:160, middle].astype(int)).max() <= 3


def bars(width: int, height: int, number: int, color: ColorInfo) -> Frame:
    """Eight bars of 75 % and a bit of every primary colour, coded by H.273's equations 25 to 51."""
    red, blue = (0.2126, 0.0722) if color.matrix == Matrix.BT709 else (0.299, 0.114)
    planes = empty_planes(width, height)
    for bar in range(8):
        r, g, b = (0.1 + 0.75 * (bar >> bit & 1) for bit in (0, 1, 2))
        y = red * r + (1 - red - blue) * g + blue * b
        u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
        full = color.full_range
        codes = (255 * y, 128 + 255 * u, 128 + 255 * v) if full else (16 + 219 * y, 128 + 224 * u, 128 + 224 * v)
        for plane, code in zip(planes, codes, strict=True):
            step = plane.shape[1] // 8
            plane[:, bar * step : (bar + 1) * step] = round(code)
    return Frame(
        read_only(planes), pts=number * 67, time_base=Fraction(1, 1000), duration=67, number=number, color=color
    )


def test_the_layout_of_the_feed_is_as_the_page_says(page: Any) -> None:
    layout = arrange(WIDTH, HEIGHT, INFO.fps)
    told = page.evaluate("streamSr.layout")
    assert [told[key] for key in ("width", "height", "x", "y")] == [WIDTH, HEIGHT, layout.x, layout.y]
