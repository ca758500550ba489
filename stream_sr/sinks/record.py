"""A recording that is begun and ended while the filter runs: a new file each time, named by the program."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_sr.codec.encoder import Encoder
from stream_sr.errors import OutputRemoved, SinkOpenError, StreamSRError
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions
from stream_sr.sinks.file import FileSink
from stream_sr.sinks.output_file import free_name
from stream_sr.video.frame import Frame, StreamInfo

log = logging.getLogger("stream_sr")


class RecordSink:
    """Writes ``DIR/stream_sr-DATE-TIME.mp4`` between two switches. See `interfaces.FrameSink` and `controls.Recording`.

    It has an encoder of its own, which runs only while it records. A failure (a full disk) ends that recording, is
    logged and stands in `state`; the run goes on. After a file that was removed or renamed another is begun with the
    next frame, which `state` says until the next switch. `switch` and `state` may be called from any thread;
    switching counts from the next frame on.
    """

    paced = False
    with_source = False

    def __init__(self, folder: Path, options: EncoderOptions) -> None:
        self.name = "recording"
        self._folder, self._options = folder, options
        self._lock = threading.Lock()  # of what `state` tells
        self._wanted = False
        self._path: Path | None = None
        self._began = 0.0
        self._error = ""
        self._failures = 0
        self._info: StreamInfo | None = None
        self._file: FileSink | None = None
        self._encoder: Encoder | None = None

    def check(self) -> None:
        """Raises SinkOpenError unless files can be made in the folder."""
        if not os.path.isdir(self._folder):  # False also for a name that is too long
            raise SinkOpenError(f"--record-dir {self._folder} is no folder; make it first (mkdir -p)")
        FileSink(str(self._free_name()), SinkOptions()).check()

    def open(self, info: StreamInfo) -> None:
        self._info = info

    def switch(self, on: bool) -> None:
        """Begin or end a recording. What is so already stays."""
        with self._lock:
            self._wanted = on
            if on:
                self._error = ""

    def state(self) -> dict[str, Any]:
        """``on``, ``file`` (its name only; that of the last recording), ``seconds`` and ``error``."""
        with self._lock:
            recording = self._wanted
            seconds = time.monotonic() - self._began if recording and self._began else 0.0
            return {
                "on": recording,
                "file": self._path.name if self._path else "",
                "seconds": round(seconds, 1),
                "error": self._error,
            }

    def write(self, frame: Frame) -> bool:
        with self._lock:
            wanted = self._wanted
        try:
            if wanted:
                self._record(frame)
            elif self._file is not None:
                self._finish()
        except OutputRemoved as error:
            self._fail(error, again=True)
        except StreamSRError as error:
            self._fail(error)
        return True

    def counters(self) -> dict[str, int]:
        """Whether it is ``recording`` now, and the ``failures`` so far. From any thread."""
        with self._lock:
            return {"recording": int(self._began > 0), "failures": self._failures}

    def close(self) -> None:
        try:
            self._finish()
        except StreamSRError as error:
            self._fail(error)

    def _record(self, frame: Frame) -> None:
        if self._file is None:
            self._begin()
        assert self._encoder is not None
        assert self._file is not None
        for packet in self._encoder.encode(frame):
            self._file.write(packet)

    def _begin(self) -> None:
        assert self._info is not None
        path = self._free_name()
        # Its times begin with its first picture, as those of a live stream, also where the source is a file.
        self._encoder = Encoder(replace(self._info, live=True), self._options, live=True)
        self._file = FileSink(str(path), SinkOptions(audio="none"))
        self._file.open(self._encoder.stream)
        with self._lock:
            self._path, self._began = path, time.monotonic()
        log.info("recording into %s", path)

    def _finish(self) -> None:
        file, encoder, self._file, self._encoder = self._file, self._encoder, None, None
        if file is None:
            return
        try:
            if encoder is not None:
                for packet in encoder.flush():
                    file.write(packet)
                encoder.close()
            file.complete()
        finally:
            file.close()
            with self._lock:
                self._began = 0.0
        log.info("recorded %s", file.name)

    def _fail(self, error: StreamSRError, *, again: bool = False) -> None:
        """Give the file up; with ``again`` the next frame begins another."""
        log.error("the recording has ended: %s%s", error, "; another is begun" if again else "")
        file, self._file, self._encoder = self._file, None, None
        with self._lock:
            self._failures += 1
            self._wanted = self._wanted and again
            # viewers learn what failed, and not where files lie on this machine
            self._began, self._error = 0.0, str(error).replace(f"{self._folder}{os.sep}", "")
        if file is not None:
            try:
                file.close()
            except StreamSRError as later:
                log.debug("closing the recording failed too: %s", later)

    def _free_name(self) -> Path:
        return free_name(self._folder / f"{time.strftime('stream_sr-%Y%m%d-%H%M%S')}.mp4")
