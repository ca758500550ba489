"""``doctor``: see `cli.doctor`."""

from __future__ import annotations

import shutil
import sys

from stream_sr.cli.command import Command, JsonOptions
from stream_sr.cli.terminal import print_result


def doctor_command(options: JsonOptions) -> int:
    from stream_sr.cli import doctor

    report = doctor.examine()
    width = min(100, max(60, shutil.get_terminal_size().columns))
    color = doctor.wants_color(sys.stdout)
    print_result(
        options.json, report, lambda found: doctor.format_findings(found, color=color, width=width), escaped=True
    )
    return 0


COMMAND = Command("doctor", "what this machine has, what is missing and how to fix it", JsonOptions, doctor_command)
