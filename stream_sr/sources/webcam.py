"""A webcam through OpenCV, with the time stamps of its driver."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av

from stream_sr.codec.decode import FrameReader
from stream_sr.codec.picture import expect
from stream_sr.errors import DecodeError, SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.packets import Passthrough
from stream_sr.pipeline.stats import Counters
from stream_sr.system.video_devices import IS_LINUX, is_present, video_devices
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.opencv import load_opencv
from stream_sr.video.planes import Plane
from stream_sr.video.timing import NS

MICROSECOND = Fraction(1, 1_000_000)
RETRY_SECONDS = 0.02  # between two reads that gave nothing
WANDER_NS = NS // 2  # how far the driver's time may run from ours before it is no longer believed

OpenCapture = Callable[[int | str], Any]


class CameraClock:
    """Presentation times from the driver's stamps while they are sane, else from the monotonic clock.

    Sane is: about as much time passed on it as here. The first insane stamp ends its use for good.
    """

    def __init__(self) -> None:
        self.trusted = True
        self._first: tuple[int, int] | None = None  # driver's ns, ours
        self._last = -1

    def stamp(self, driver_ns: int, now_ns: int) -> tuple[int, int]:
        """(pts in microseconds since the first picture, growing; ``captured_ns``) of what was grabbed at ``now_ns``."""
        if self._first is None:
            self._first = (driver_ns, now_ns)
        here = now_ns - self._first[1]
        there = driver_ns - self._first[0]
        if abs(here - there) > WANDER_NS or driver_ns < 0:
            self.trusted = False
        pts = max((there if self.trusted else here) // 1000, self._last + 1)
        self._last = pts
        # On Linux the driver stamps with the same monotonic clock, at the moment of capture.
        monotonic = self.trusted and 0 <= now_ns - driver_ns < NS
        return pts, driver_ns if monotonic else now_ns


class CameraSource:
    """A webcam; BGR as OpenCV gives it becomes limited-range YUV 4:2:0.

    A capture size, rate or FourCC that the camera does not take is refused with what it gives. A camera that is pulled
    out, or gives nothing for ``read_timeout`` seconds, raises SourceLost. ``open_capture`` replaces
    ``cv2.VideoCapture`` in tests. A read waits for the driver for a second at most (see `opencv.load_opencv`), then
    sees `stop`; ``stopping`` may be set by another thread while this opens, which then fails after its native call.
    """

    passthrough: Passthrough | None = None

    def __init__(
        self,
        address: str,
        options: SourceOptions | None = None,
        *,
        open_capture: OpenCapture | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._options = options or SourceOptions()
        self._stopping = stopping or threading.Event()
        self._counts = Counters()
        self._clock = CameraClock()
        self._reader = FrameReader()
        self._device = device_of(address)
        self.name = f"camera {address}"
        if open_capture is None:
            _check_device(self._device)
        cv2 = load_opencv("the webcam", SourceOpenError)
        self._cv2 = cv2
        self._capture = (open_capture or cv2.VideoCapture)(self._device)
        try:
            if not self._capture.isOpened():
                raise SourceOpenError(f"{self.name} cannot be opened; is another program using it?")
            self._configure()
            self._first = self._grab()
            if self._first is None:
                raise SourceOpenError(f"{self.name} gives no picture")
            self.info = self._describe(self._first[0])
        except SourceLost as error:
            self.close()
            raise SourceOpenError(f"{self.name} gives no picture") from error
        except BaseException:
            self.close()
            raise

    def _configure(self) -> None:
        """Set what was asked for, then compare: a driver takes the nearest that it has, without a word."""
        cv2, capture, options = self._cv2, self._capture, self._options
        if options.fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*options.fourcc))
        if options.capture_size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.capture_size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.capture_size[1])
        if options.capture_fps is not None:
            capture.set(cv2.CAP_PROP_FPS, options.capture_fps)
        code = int(capture.get(cv2.CAP_PROP_FOURCC))
        fourcc = bytes((code >> 8 * i) & 0xFF for i in range(4)).decode("latin-1")
        size = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        gives = f"the camera gives {size[0]}x{size[1]} at {fps:g} fps as {fourcc}; leave the option out to take that"
        if options.fourcc is not None and fourcc.upper() != options.fourcc.upper():
            raise SourceOpenError(f"{self.name} does not take --fourcc {options.fourcc}: {gives}")
        if options.capture_size is not None and size != options.capture_size:
            width, height = options.capture_size
            raise SourceOpenError(f"{self.name} does not take --capture-size {width}x{height}: {gives}")
        if options.capture_fps is not None and abs(fps - options.capture_fps) > 0.5:
            raise SourceOpenError(f"{self.name} does not take --capture-fps {options.capture_fps:g}: {gives}")

    def _describe(self, picture: Plane) -> StreamInfo:
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        frame = _wrap(picture)
        return StreamInfo(
            width=frame.width,
            height=frame.height,
            time_base=MICROSECOND,
            fps=Fraction(fps).limit_denominator(1001) if fps > 0 else None,
            color=self._reader.color(frame),
            live=True,
            duration_seconds=self._options.duration,
            codec="rawvideo",
            name=self.name,
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`."""
        number = 0
        first, self._first = self._first, None
        while (item := first or self._grab()) is not None:
            first = None
            picture, pts, captured_ns = item
            length = self._options.duration
            if self._stopping.is_set() or (length is not None and pts * MICROSECOND >= length):
                return
            planes, slot = self._reader.read(_wrap(picture), pool)
            yield Frame(
                planes,
                pts=pts,
                time_base=MICROSECOND,
                number=number,
                captured_ns=captured_ns,
                color=self.info.color,
                slot=slot,
            )
            number += 1

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopping.set()

    def counters(self) -> dict[str, int]:
        """``empty_reads``: times when the camera gave nothing though it was there."""
        return self._counts.read()

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()
        self._capture.release()

    def _grab(self) -> tuple[Plane, int, int] | None:
        """The next picture (BGR, ``[H, W, 3]``), its pts and its time of capture; None when stopped."""
        since = time.monotonic_ns()
        while not self._stopping.is_set():
            if self._capture.grab():
                now_ns = time.monotonic_ns()
                driver_ns = round(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) * 1_000_000)
                ok, picture = self._capture.retrieve()
                if ok and picture is not None:
                    return (picture, *self._clock.stamp(driver_ns, now_ns))
            self._counts.add("empty_reads")
            if isinstance(self._device, int) and not is_present(self._device):
                raise SourceLost(f"{self.name} was unplugged")
            if time.monotonic_ns() - since > self._options.read_timeout * NS:
                raise SourceLost(f"{self.name} gave nothing for {self._options.read_timeout:g} s")
            self._stopping.wait(RETRY_SECONDS)
        return None


def is_camera(address: str) -> bool:
    """Whether this address is a number or a device file of a camera."""
    return address.isdecimal() or address.startswith("/dev/video")


def device_of(address: str) -> int | str:
    """What OpenCV calls the device: its number where it has one."""
    match = re.fullmatch(r"(?:/dev/video)?(\d+)", address)
    return int(match[1]) if match else address


def _check_device(device: int | str) -> None:
    """Refuse a camera that is not there before OpenCV tries every one of its backends on it."""
    if not IS_LINUX:
        return
    path = f"/dev/video{device}" if isinstance(device, int) else device
    if not os.path.exists(path):
        there = ", ".join(map(str, video_devices())) or "none"
        raise SourceOpenError(f"no such camera: {path} (cameras here: {there})")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceOpenError(
            f"no permission for the camera {path}; add yourself to its group: usermod -aG video $USER"
        )


def _wrap(picture: Plane) -> av.VideoFrame:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise DecodeError(f"the camera gives pictures of the shape {picture.shape}; BGR, three channels, is expected")
    return expect(av.VideoFrame.from_ndarray(picture, "bgr24"), picture.shape[1], picture.shape[0])
