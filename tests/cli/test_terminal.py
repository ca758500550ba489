"""Signals: what SIGHUP does to a program that reads its file again."""

import os
import signal

from stream_sr.cli.terminal import StopSignals


class Reloaded:
    def __init__(self) -> None:
        self.reloads = self.stops = 0

    def reload(self) -> None:
        self.reloads += 1

    def stop(self) -> None:
        self.stops += 1


def test_sighup_reads_again_and_one_that_came_early_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGHUP)
    program = Reloaded()
    with StopSignals(reloads=True) as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        signals.attach(program)
        assert program.reloads == 1
        os.kill(os.getpid(), signal.SIGHUP)
    assert (program.reloads, program.stops, signals.count) == (2, 0, 0)
    assert signal.getsignal(signal.SIGHUP) is before


def test_without_reloading_sighup_is_a_stop() -> None:
    program = Reloaded()
    with StopSignals() as signals:
        signals.attach(program)
        os.kill(os.getpid(), signal.SIGHUP)
    assert (program.reloads, program.stops, signals.count) == (0, 1, 1)
