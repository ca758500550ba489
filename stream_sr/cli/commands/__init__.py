"""One module for each command: its options, and the function that runs it and returns the exit code.

`run` has run, preview and restream. The longer parts lie below: `app`, `bench`, `training`, `evaluation`, and beside
this package `demo`, `latency`, `doctor` and `listing`, which are loaded when their command runs.
May import everything below and the other modules of `cli`, but `main`. Start reading in `run`.
"""

from stream_sr.cli.command import Command
from stream_sr.cli.commands import (
    bench,
    clips,
    compare,
    demo,
    doctor,
    engine,
    evaluate,
    export,
    latency,
    models,
    quantize,
    run,
    serve,
    train,
)

COMMANDS: tuple[Command, ...] = (
    *run.COMMANDS,
    serve.COMMAND,
    latency.COMMAND,
    demo.COMMAND,
    bench.COMMAND,
    compare.COMMAND,
    models.COMMAND,
    *engine.COMMANDS,
    doctor.COMMAND,
    train.COMMAND,
    clips.COMMAND,
    export.COMMAND,
    quantize.COMMAND,
    evaluate.COMMAND,
)
PARENTS = {"engine": "build, list or prune compiled engines"}  # commands that have actions
