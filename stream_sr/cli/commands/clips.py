"""``clips``: pictures and films become clips to train on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stream_sr.cli.command import Command, CommandOptions
from stream_sr.cli.terminal import check_folder, print_line
from stream_sr.config.kinds import FILE, TEXT, choice, whole
from stream_sr.config.option import argument, option
from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS


@dataclass(frozen=True, kw_only=True)
class ClipsOptions(CommandOptions):
    out: Path = argument(FILE, "DIR", "where the clips go")
    data: tuple[Path, ...] = option((), FILE, "pictures; may be repeated", metavar="DIR", repeated=True)
    video: tuple[Path, ...] = option((), FILE, "reduced to half; may be repeated", repeated=True)
    scale: int = option(2, whole(1, 4, "1|2|3|4"), "enlargement")
    weights: str = option(WEIGHTS[1], choice(*WEIGHTS), "what they are for; camera: blur, noise, H.264, JPEG")
    length: int = option(6, whole(1, 100), "pictures of a clip; recurrent networks want 12")
    motion: str = option(
        "pan",
        choice("pan", "scene", "both"),
        "how a picture moves: pan, by whole pixels; scene, a turning camera and things before it; both, two clips, "
        "which recurrent networks want",
    )
    validate: tuple[str, ...] = option(
        (),
        TEXT,
        "picture or video, without its ending, that chooses the best weights; may be repeated",
        metavar="NAME",
        repeated=True,
        unset="the ten pictures of the packaged recipes",
    )


def clips_command(options: ClipsOptions) -> int:
    from stream_sr.evaluation.codec_roundtrip import h264_roundtrip, read_luma
    from stream_sr.training.clips import VALIDATION, make_clips
    from stream_sr.training.recipe import load_recipe
    from stream_sr.video.resample import find_images

    if not options.data and not options.video:
        raise ConfigError("nothing to make clips of; give folders with --data, films with --video")
    if options.scale == 1 and options.weights == WEIGHTS[0]:
        raise ConfigError("at scale 1 a clean clip is its own truth; give --weights camera")
    validation = options.validate or load_recipe("fast", scale=2).validation_images
    names = {path.stem for path in [*(find_images(options.data) if options.data else []), *options.video]}
    if unknown := sorted(set(options.validate) - names):
        raise ConfigError(f"--validate {', '.join(unknown)}: no such picture or film; give names without their ending")
    check_folder(options.out)
    count = make_clips(
        options.out,
        pictures=options.data,
        scale=options.scale,
        length=options.length,
        weights=options.weights,
        videos=[(path.stem, partial(read_luma, path)) for path in options.video],
        motion=options.motion,
        validation=validation,
        roundtrip=h264_roundtrip,
        report=logging.getLogger("stream_sr").debug,
    )
    print_line(f"{options.out}: {count} clips")
    if not any((options.out / VALIDATION).iterdir()):
        logging.getLogger("stream_sr").warning(
            "none of them chooses the best weights, as `stream-sr train` wants; name some pictures with --validate "
            "(there are %s)",
            ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else ""),
        )
    return 0


COMMAND = Command("clips", "make clips to train on: moving, degraded, with their truth", ClipsOptions, clips_command)
