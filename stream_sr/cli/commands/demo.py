"""``demo``: see `cli.demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream_sr.cli.command import EXIT_ABORTED, Command, ConfigOptions
from stream_sr.cli.terminal import StopSignals, print_lines
from stream_sr.config.kinds import FILE, number
from stream_sr.config.option import Group, option


@dataclass(frozen=True, kw_only=True)
class DemoOptions(ConfigOptions):
    seconds: float = option(20.0, number(1, 86_400), "how long")
    out: Path = option(Path("out"), FILE, "for demo.mp4, before_after.png, report.json", metavar="DIR")


def demo_command(options: DemoOptions) -> int:
    from stream_sr.cli.demo import demo

    with StopSignals() as signals:
        text = demo(options.out, options.seconds, options.make_config(), started=signals.attach)
    print_lines(text)
    return EXIT_ABORTED if signals.count > 1 else 0


COMMAND = Command(
    "demo",
    "camera, filter and viewer on this machine, over real RTSP",
    DemoOptions,
    demo_command,
    groups=(Group.ENGINE,),
)
