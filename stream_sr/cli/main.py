"""The command line: the commands' parsers, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from stream_sr.cli.command import EXIT_ABORTED, Command
from stream_sr.cli.commands import COMMANDS, PARENTS, models
from stream_sr.cli.parser import Parser, address_help, read_options
from stream_sr.cli.terminal import StoppedBeforeStart, configure_log, flush, prepare_streams, print_error, print_lines
from stream_sr.config.run_options import RUN_OPTIONS
from stream_sr.errors import PipelineStalled, SinkWriteError, StreamSRError
from stream_sr.system.machine import PROGRAM
from stream_sr.system.printable import printable, printable_lines

EXAMPLES = f"""\
to begin with:
  {PROGRAM} doctor                                    what this machine has
  {PROGRAM} preview 0 --web 8080                      a webcam, in the browser
  {PROGRAM} restream rtsp://CAMERA/x rtsp://@:8654/x  a camera, served here
  {PROGRAM} run FILM.mp4 LARGE.mp4                    a file, with its sound

`{PROGRAM} COMMAND --help` lists the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. ``arguments`` are those of the process when None."""
    words = _join_name(list(sys.argv[1:] if arguments is None else arguments))
    prepare_streams()
    try:
        parser = _parser()
        if _print_choices(words):
            return 0
        parsed, unknown = parser.parse_known_args(words)
        parsed.parser.refuse_unknown(unknown)
        command: Command = parsed.command
        options = read_options(command, parsed)
        configure_log(options.verbose)
        return command.run(options)
    except StreamSRError as error:
        flush()
        print_error(f"error: {error}")
        if isinstance(error, PipelineStalled):
            os._exit(error.exit_code)  # a thread hangs in a library; a normal exit would wait for it
        return error.exit_code
    except StoppedBeforeStart:
        print_error("stopped before the first frame")
        return 0
    except KeyboardInterrupt:
        print_error("stopped")
        return EXIT_ABORTED
    except BrokenPipeError:
        _forget_stdout()  # the reader of the output has closed it
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            return _report_internal_error(error, words)
        with suppress(OSError):
            print_error(f"error: standard output cannot be written: {error.strerror}")
        _forget_stdout()
        return SinkWriteError.exit_code
    except Exception as error:
        return _report_internal_error(error, words)


def _forget_stdout() -> None:
    """What is still buffered cannot be written; the interpreter must not try it again when it ends."""
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_internal_error(error: Exception, words: Sequence[str]) -> int:
    """One line, or with -v the traceback."""
    if {"-v", "--verbose"} & set(words):
        print(printable_lines("".join(traceback.format_exception(error)).rstrip()), file=sys.stderr)
        return 1
    where = " ".join(getattr(error, "__notes__", []))
    text = printable(f"{type(error).__name__}: {error}" + (f" ({where})" if where else ""))
    print(f"{PROGRAM}: internal error: {text}; -v shows where", file=sys.stderr)
    return 1


def _join_name(words: list[str]) -> list[str]:
    """The words with the name of a command of two words as the first of them; a source named compare is ./compare."""
    name = " ".join(words[:2])
    joined = len(words) > 1 and any(command.name == name for command in COMMANDS)
    return [name, *words[2:]] if joined else words


def _print_choices(words: Sequence[str]) -> bool:
    """Print what an option takes, for ``--backend=help`` or ``--backend help``; whether that was asked for."""
    for option in RUN_OPTIONS:
        if f"{option.flag}=help" not in words and (option.flag, "help") not in pairwise(words):
            continue
        if option.key == "model":
            print_lines(models.models_text())
        elif option.kind.choices:
            print("\n".join(option.kind.choices))
        else:
            print(f"{option.flag} {option.metavar}: {option.help_text}")
        return True
    return False


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Real-time video super-resolution filter.", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    names = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    actions: dict[str, argparse._SubParsersAction[Parser]] = {}
    for command in COMMANDS:
        parent = command.parent
        if parent and parent not in actions:
            group: Parser = names.add_parser(parent, help=PARENTS[parent], description=PARENTS[parent])
            group.add_common()
            actions[parent] = group.add_subparsers(
                title="actions", required=True, metavar="ACTION", parser_class=Parser
            )
        sub: Parser = (actions[parent] if parent else names).add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=f"{command.notes}\n{address_help(command.addresses)}".strip(),
        )
        sub.set_defaults(command=command)
        sub.add_command(command)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stream-sr")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
