"""What `stream-sr bench` measures: kinds, lists, a clip of its own, the whole filter and a live picture."""

from pathlib import Path

import pytest

from stream_sr.bench.clip import make_clip
from stream_sr.bench.run import RunSubject
from stream_sr.bench.sweep import Sweep, choose_kind, run_sweep
from stream_sr.cli import main
from stream_sr.cli.commands.bench import COMMAND, BenchOptions, check_plot, sweep_configs
from stream_sr.cli.parser import read_options
from stream_sr.config import Config
from stream_sr.errors import ConfigError
from stream_sr.evaluation.codec_roundtrip import read_luma

BICUBIC = Config(backend="bicubic")


@pytest.mark.parametrize(
    ("asked", "source", "kind"),
    [
        (None, None, "engine"),
        (None, "film.mp4", "pipeline"),
        (None, "synthetic:640x360@30", "live"),
        (None, "rtsp://camera/stream", "live"),
        ("pipeline", None, "pipeline"),
        ("live", None, "live"),
        ("pipeline", "synthetic:640x360@30", "pipeline"),
    ],
)
def test_the_kind_suits_the_source(asked: str | None, source: str | None, kind: str) -> None:
    assert choose_kind(asked, source, "null:") == kind


@pytest.mark.parametrize(
    ("asked", "source", "sink", "part"),
    [
        ("engine", "film.mp4", "null:", "takes no SOURCE"),
        ("live", "film.mp4", "null:", "has no clock"),
        ("pipeline", "rtsp://user:word@camera/stream", "null:", "--mode live measures that"),
        (None, "-", "null:", "read once"),
        (None, "film.mp4", "-", "standard output"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked: str | None, source: str, sink: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        choose_kind(asked, source, sink)
    assert "word@" not in str(caught.value)


def parsed(**words: str) -> BenchOptions:
    flags = [f"--{name}={value}" for name, value in words.items()]
    options = read_options(COMMAND, main._parser().parse_args(["bench", *flags]))
    assert isinstance(options, BenchOptions)
    return options


def test_lists_become_every_combination() -> None:
    configs = sweep_configs(parsed(model="tiny,fast", precision="fp32,bf16", threads="2"))
    assert [(one.model, one.precision, one.threads) for one in configs] == [
        ("tiny", "fp32", 2),
        ("tiny", "bf16", 2),
        ("fast", "fp32", 2),
        ("fast", "bf16", 2),
    ]
    mixed = sweep_configs(parsed(model="tiny,fast", backend="openvino,bicubic"))
    assert [(one.model, one.backend) for one in mixed] == [
        ("tiny", "openvino"),
        (None, "bicubic"),
        ("fast", "openvino"),
    ]
    assert parsed(size="64x48, 32x24").sizes == ((64, 48), (32, 24))
    for words in ({"model": "tiny,"}, {"precision": "fp32,fp8"}, {"model": "tiny", "backend": "bicubic"}):
        with pytest.raises(ConfigError):
            sweep_configs(parsed(**words))


def test_engines_of_several_sizes(tmp_path: Path) -> None:
    steps: list[int] = []

    def begin(count: int) -> object:
        steps.append(count)
        return lambda label: None

    sweep = Sweep(kind="engine", configs=[BICUBIC], sizes=[(64, 48), (32, 24)], rounds=2, seconds=0.02)
    result = run_sweep(sweep, tmp_path, begin=begin)  # type: ignore[arg-type]
    assert steps == [6]
    assert [(row["width"], row["height"]) for row in result["rows"]] == [(64, 48), (32, 24)]
    assert all(row["latency_ms"]["p50"] > 0 for row in result["rows"])
    assert result["settings"] == {"rounds": "2", "seconds": "0.02"}
    with pytest.raises(ConfigError, match="--crf"):
        run_sweep(Sweep(kind="engine", configs=[Config(crf=20, asked=frozenset({"crf"}))], rounds=1), tmp_path)


def test_a_clip_is_made_and_the_same_each_time(tmp_path: Path) -> None:
    clips = [make_clip("synthetic:128x96@30", 0.25, tmp_path / f"{n}.mp4") for n in range(2)]
    pictures = [list(read_luma(clip)) for clip in clips]
    assert len(pictures[0]) == 8
    assert (pictures[0][0] == pictures[1][0]).all()
    assert not (pictures[0][0] == pictures[0][7]).all()


def test_the_whole_filter_over_a_clip_of_its_own(tmp_path: Path) -> None:
    sweep = Sweep(kind="pipeline", configs=[BICUBIC], sizes=[(128, 96)], rounds=2, seconds=0.2)
    (row,) = run_sweep(sweep, tmp_path)["rows"]
    assert (row["frames_in"], row["frames_out"], row["dropped"]) == (12, 12, {})
    assert (row["width"], row["output"]["width"]) == (128, 256)
    assert row["stages_ms"]["infer"]["count"] == row["latency_ms"]["count"] == 12


def test_a_live_picture_tells_what_was_late(tmp_path: Path) -> None:
    sweep = Sweep(kind="live", configs=[BICUBIC], source="synthetic:128x96@100", rounds=1, seconds=0.3)
    result = run_sweep(sweep, tmp_path)
    (row,) = result["rows"]
    assert row["frames_out"] + sum(row["dropped"].values()) == row["frames_in"]
    assert row["latency_ms"]["count"] == row["frames_out"] > 1
    assert result["settings"]["source"] == "synthetic:128x96@100"


def test_a_run_that_cannot_begin_says_what_was_asked(tmp_path: Path) -> None:
    subject = RunSubject(str(tmp_path / "none.mp4"), "null:", BICUBIC)
    assert (subject.figures()["model"], subject.figures()["backend"]) == ("bicubic", "bicubic")


def test_a_single_picture_has_no_speed(tmp_path: Path) -> None:
    clip = make_clip("synthetic:128x96@30", 0.02, tmp_path / "one.mp4")
    sweep = Sweep(kind="pipeline", configs=[BICUBIC], source=str(clip), rounds=1)
    with pytest.raises(ConfigError, match=r"one\.mp4: a speed needs two pictures, and a round gave 1"):
        run_sweep(sweep, tmp_path)


def test_a_plot_that_could_not_be_drawn_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    check_plot(tmp_path / "plot.png")
    with pytest.raises(ConfigError, match="folder that exists"):
        check_plot(tmp_path / "none" / "plot.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"stream-sr\[plot\]"):
        check_plot(tmp_path / "plot.png")
