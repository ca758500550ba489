"""A second Ctrl-C ends the program whatever it is stuck in; a stalled inference is found. With real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from media_files import count_pictures
from onnx import TensorProto, helper
from program import Program
from program import __file__ as PROGRAM_FILE
from waiting import LIMIT_SECONDS, wait_until

from stream_sr.errors import FrameStalled
from stream_sr.pipeline.stall import StallWatch, working
from stream_sr.pipeline.threads import Worker
from stream_sr.system.watchdog import GRACE_SECONDS

pytestmark = [pytest.mark.long, pytest.mark.serial]

STUCK = (sys.executable, str(Path(PROGRAM_FILE).with_name("stuck_program.py")))
ENDLESS = 1 << 62
SOURCE = "synthetic:128x96@30"


def endless_model(path: Path, *, at_once: bool) -> Path:
    """A x2 model of the accepted form whose Loop does not end: for every frame, or only for one that is not dark, so
    that it passes the warm-up."""

    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["x", "one"], ["xo"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("co", TensorProto.BOOL, []),
            helper.make_tensor_value_info("xo", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["luma"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["m1"]),
        helper.make_node("Greater", ["m1", "dark"], ["bright"]),
        helper.make_node("Squeeze", ["bright", "axis"], ["condition"]),
        helper.make_node("Loop", ["trips", "condition", "m1"], ["y"], body=body),
        helper.make_node("Mul", ["y", "zero"], ["z"]),
        helper.make_node("Add", ["f", "z"], ["f2"]),
        helper.make_node("ConvTranspose", ["f2", "weight"], ["u"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Clip", ["u", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["upscaled"], to=TensorProto.UINT8),
    ]
    values: dict[str, Any] = {
        "trips": np.int64(ENDLESS),
        "shape": np.array([1], np.int64),
        "axis": np.array([0], np.int64),
        "one": np.array([1], np.float32),
        "zero": np.array([0], np.float32),
        "low": np.float32(0),
        "dark": np.array([-1 if at_once else 100], np.float32),
        "high": np.float32(255),
        "weight": np.ones((1, 1, 2, 2), np.float32),
    }
    constants = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in values.items()]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("luma", TensorProto.UINT8, [1, 1, "H", "W"])],
        [helper.make_tensor_value_info("upscaled", TensorProto.UINT8, [1, 1, "sH", "sW"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def handled(program: Program) -> bool:
    """Whether no signal to stop is pending: two that come before the first is taken would be one to the kernel."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    pending = sum(int(row.split()[1], 16) for row in status.splitlines() if row.startswith(("SigPnd", "ShdPnd")))
    return not pending & (1 << signal.SIGINT - 1 | 1 << signal.SIGTERM - 1)


def stop_twice(program: Program, send: Callable[[], object]) -> None:
    for _ in range(2):
        send()
        wait_until(lambda: handled(program))


def test_a_second_signal_ends_a_program_that_holds_the_lock_of_the_interpreter(tmp_path: Path) -> None:
    """Three of them: stuck in the main thread, in another, and while it records; by Ctrl-C, SIGTERM and both."""
    path = tmp_path / "out.mkv"
    with (
        Program("main", "run", "a", "b", command=STUCK) as main,
        Program("thread", "serve", "a", command=STUCK) as thread,
        Program(path, "run", SOURCE, path, "--backend", "bicubic", command=STUCK) as recording,
    ):
        for program in (main, thread, recording):
            program.line("^stuck")
        began = time.monotonic()
        stop_twice(main, lambda: os.killpg(main.pid, signal.SIGINT))
        thread.send(signal.SIGHUP, signal.SIGHUP)  # with `serve` they do not stop
        stop_twice(thread, lambda: thread.send(signal.SIGTERM))
        stop_twice(recording, lambda: recording.send(signal.SIGINT))
        for program in (main, thread, recording):
            assert program.end() == -signal.SIGKILL
            assert "a library hangs; killed (exit code 137)" in program.messages[-1]
        assert time.monotonic() - began >= GRACE_SECONDS - 0.1
    assert count_pictures(path) > 0


@pytest.mark.slow
def test_a_standard_error_that_nobody_reads_saves_no_stuck_program() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    ready = "import ctypes, os, sys; sys.argv = ['x', 'run']; from stream_sr.system import watchdog; watchdog.start(); "
    stuck = (
        "import signal; signal.signal(signal.SIGINT, lambda *_: None); os.write(1, b'.'); ctypes.PyDLL(None).pause()"
    )
    again = "\nwhile True: ctypes.PyDLL(None).sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", ready + stuck + again], stdout=subprocess.PIPE, stderr=writing
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.read(1) == b"."
            children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
            (helper_pid,) = [int(word) for word in children.read_text().split()]
            for _ in range(2):
                program.send_signal(signal.SIGINT)
                time.sleep(0.2)  # two signals that wait at the same time are one
            assert program.wait(LIMIT_SECONDS) == -signal.SIGKILL
        finally:
            program.kill()
    wait_until(lambda: not Path(f"/proc/{helper_pid}").exists())
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_one_signal_kills_nothing(tmp_path: Path) -> None:
    """Nor do many of those that do not stop; the helper ends with the program."""
    path = tmp_path / "out.mkv"
    with Program("run", SOURCE, path, "--backend", "bicubic") as program:
        wait_until(path.exists)
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
        (helper_pid,) = [int(word) for word in children.read_text().split()]
        assert b"watchdog.py" in Path(f"/proc/{helper_pid}/cmdline").read_bytes()
        program.send(signal.SIGTERM)
        assert program.end() == 0
    wait_until(lambda: not Path(f"/proc/{helper_pid}").exists())
    assert count_pictures(path) > 0


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_an_endless_inference(tmp_path: Path) -> None:
    """Both keys come from a terminal, to the whole group in front."""
    model = endless_model(tmp_path / "endless.onnx", at_once=False)
    ours, theirs = os.openpty()
    shell = ("sh", "-c", f'exec "$@" < {os.ttyname(theirs)}', "sh", sys.executable, "-m", "stream_sr")
    try:
        with Program("run", SOURCE, "null:", "--model", model, command=shell) as program:
            program.line("endless x2 on openvino")
            os.write(ours, b"\x03")
            program.line("stopping: what was captured is finished")
            os.write(ours, b"\x03")
            assert program.end() == 130
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_ctrl_c_ends_an_endless_warm_up(tmp_path: Path) -> None:
    model = endless_model(tmp_path / "endless.onnx", at_once=True)
    with Program("run", SOURCE, "null:", "--model", model, "-v") as program:
        wait_until(lambda: any(b"engine" in comm.read_bytes() for comm in comms(program)))
        program.send(signal.SIGINT)
        assert program.end() == 0
        assert program.messages[-1] == "stream-sr: stopped before the first frame"


def comms(program: Program) -> list[Path]:
    return list(Path(f"/proc/{program.pid}/task").glob("*/comm"))


@pytest.mark.slow
def test_a_live_run_that_stalls_ends_with_exit_code_6(tmp_path: Path) -> None:
    model = endless_model(tmp_path / "endless.onnx", at_once=False)
    with Program("run", SOURCE, "null:", "--model", model, "--stall-timeout", 1) as program:
        assert program.end() == 6
        assert "error: the engine has worked on one frame for 1 s and has not returned" in program.messages[-1]


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False])
def test_serve_finishes_the_other_cameras_and_ends_with_exit_code_6(tmp_path: Path, at_once: bool) -> None:
    model, path, file = endless_model(tmp_path / "e.onnx", at_once=at_once), tmp_path / "good.mp4", tmp_path / "c.toml"
    file.write_text(
        f'[all]\nscale = 2\nstall-timeout = 1\n[camera.good]\nsource = "{SOURCE}"\nsinks = ["{path}"]\n'
        f'backend = "bicubic"\n[camera.bad]\nsource = "{SOURCE}"\nsinks = ["null:"]\nmodel = "{model}"\n'
    )
    with Program("serve", file) as program:
        program.line("error: bad: the engine has worked on one frame for 1 s.*ending the other cameras.*exit code 6")
        assert program.end() == 6
    assert count_pictures(path) > 0


# --- StallWatch


class Here:
    """A worker inside a call until it is told to return."""

    def __init__(self) -> None:
        from threading import Event

        self.inside, self.leave = Event(), Event()
        self.worker = Worker("stalled", self._work)
        assert self.inside.wait(LIMIT_SECONDS)

    def _work(self) -> None:
        with working("engine"), working("inner"):
            self.inside.set()
            assert self.leave.wait(LIMIT_SECONDS)

    def end(self) -> None:
        self.leave.set()
        assert self.worker.join(LIMIT_SECONDS)


def test_a_call_is_a_stall_after_the_limit_and_a_stopped_process_does_not_count() -> None:
    here, watch = Here(), StallWatch(10)
    try:
        second = 1_000_000_000
        watch.look([here.worker.ident, None], 0)
        watch.look([here.worker.ident], 3600 * second)  # Ctrl-Z, lunch, fg
        assert watch.busy_seconds == 1
        for now in range(1, 10):
            watch.look([here.worker.ident], (3600 + now) * second)
        assert watch.busy_seconds == 10
        watch.look([], 3610 * second)
        assert watch.busy_seconds == 0, "other threads are not our business"
        for now in range(11):
            watch.look([here.worker.ident], (3610 + now) * second)
        with pytest.raises(FrameStalled, match="the engine has worked on one frame for 10 s"):
            watch.look([here.worker.ident], 3621 * second)
    finally:
        here.end()
    watch.look([here.worker.ident], 3622 * 1_000_000_000)
    assert watch.busy_seconds == 0


def test_without_a_limit_nothing_is_a_stall() -> None:
    here, watch = Here(), StallWatch(None)
    try:
        for second in range(5000):
            watch.look([here.worker.ident], second * 1_000_000_000)
        assert watch.busy_seconds == 4999
    finally:
        here.end()
