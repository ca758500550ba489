"""Options: precedence, what is allowed, and errors that say so."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from stream_sr.config import Config, make_config
from stream_sr.config.run_options import RUN_OPTIONS
from stream_sr.errors import ConfigError
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, SourceOptions


def test_a_misspelt_variable_is_said(caplog: pytest.LogCaptureFixture) -> None:
    make_config({}, environment={"STREAM_SR_SCAL": "3", "STREAM_SR_CACHE": "/elsewhere", "HOME": "/"})
    assert caplog.messages == ["STREAM_SR_SCAL in the environment is no option; is it STREAM_SR_SCALE?"]


def test_every_option_is_a_field_and_every_field_an_option() -> None:
    assert {option.key for option in RUN_OPTIONS} | {"asked", "cameras"} == {field.name for field in fields(Config)}


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('model = "from-file"\nscale = 4\ncrf = 20\noverwrite = true\nencoder-preset = "slow"\n')
    environment = {"STREAM_SR_SCALE": "3", "STREAM_SR_MODEL": "from-environment", "STREAM_SR_CACHE": "/elsewhere"}
    config = make_config({"model": "from-flag", "scale": None}, environment=environment, file=file)
    assert (config.model, config.scale, config.crf, config.overwrite) == ("from-flag", 3, 20.0, True)
    assert (config.encoder_preset, config.audio, config.max_latency) == ("slow", "copy", 500.0)


def test_parts_carry_the_options() -> None:
    config = Config(read_timeout=2, start=1.5, crf=30, encoder_preset="fast", audio="none", threads=1)
    source = config.source_options({"read_timeout", "start"})
    assert (source.read_timeout, source.start) == (2, 1.5)
    assert (config.encoder_options.crf, config.encoder_options.preset) == (30, "fast")
    assert (config.sink_options("in.mp4").audio, config.sink_options("in.mp4").source) == ("none", "in.mp4")
    assert (config.engine_options(depth=2).threads, config.engine_options(depth=2).depth) == (1, 2)


def test_a_stronger_layer_takes_its_rival_away(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('crf = 20\nscale = 3\nmodel = "fsrcnn"\n')
    config = make_config({"size": (640, 360)}, environment={"STREAM_SR_BITRATE": "4M"}, file=file)
    assert (config.crf, config.bitrate, config.scale, config.size) == (None, 4_000_000, None, (640, 360))
    assert make_config({"backend": "bicubic"}, environment={}, file=file).model is None
    again = make_config({"model": "fsrcnn-s"}, environment={"STREAM_SR_BACKEND": "bicubic"}, file=file)
    assert (again.model, again.backend) == ("fsrcnn-s", "auto")


def test_what_does_not_apply_counts_only_if_it_was_asked_for() -> None:
    environment = {"STREAM_SR_READ_TIMEOUT": "9", "STREAM_SR_GOP": "30"}
    config = make_config({"fourcc": "MJPG"}, environment=environment)
    assert config.source_options({"start"}).read_timeout == 5.0
    assert config.source_options({"read_timeout"}).read_timeout == 9.0
    assert config.source_options({"start"}).fourcc == "MJPG"  # for the source to refuse
    config.refuse({"gop"}, "nothing is encoded")
    with pytest.raises(ConfigError, match="--fourcc would do nothing: no webcam"):
        config.refuse({"fourcc", "gop"}, "no webcam")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("SCALE", "5", "1 to 4"),
        ("SCALE", "two", "1 to 4"),
        ("BACKEND", "cuda", "auto, tensorrt, openvino, torch-cuda, torch, bicubic"),
        ("SIZE", "640", "640x360"),
        ("SIZE", "15x16", "from 16x16"),
        ("SIZE", "640x16385", "to 16384x16384"),
        ("BITRATE", "fast", "4M"),
        ("BITRATE", "", "4M"),
        ("CRF", "nan", "0 to 51"),
        ("MAX_LATENCY", "0", "1 to 1e"),
        ("OVERWRITE", "maybe", "true or false"),
    ],
)
def test_a_bad_value_names_the_option_the_value_and_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({}, environment={f"STREAM_SR_{name}": text})
    message = str(caught.value)
    assert f"STREAM_SR_{name}" in message
    assert f"'{text}'" in message
    assert allowed in message


@pytest.mark.parametrize(("text", "value"), [("4M", 4_000_000), ("800k", 800_000), ("1500000", 1_500_000)])
def test_bit_rates(text: str, value: int) -> None:
    assert make_config({}, environment={"STREAM_SR_BITRATE": text}).bitrate == value


@pytest.mark.parametrize(
    ("content", "part"),
    [("scala = 2", "no option 'scala'"), ("scale = ", "not TOML"), ("scale = 9", "1 to 4")],
)
def test_a_bad_file(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=part):
        make_config({}, environment={}, file=file)


def test_the_old_name_of_an_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^STREAM_SR_TUNE is now called STREAM_SR_WEIGHTS$"):
        make_config({}, environment={"STREAM_SR_TUNE": "camera"})
    file = tmp_path / "options.toml"
    file.write_text('tune = "camera"\n')
    with pytest.raises(ConfigError, match=r"options\.toml: tune is now called weights$"):
        make_config({}, environment={}, file=file)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Config(viewer_user="me", viewer_password="secret"))


def test_defaults_are_those_of_the_contracts() -> None:
    """An unchanged option gives what the contract itself gives."""
    config = Config()
    for contract, options in (
        (SourceOptions, config.source_options({part.name for part in fields(SourceOptions)})),
        (SinkOptions, config.sink_options("")),
        (EncoderOptions, config.encoder_options),
        (EngineOptions, config.engine_options(depth=1)),
    ):
        assert options == contract()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        make_config({}, environment={}, file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    "options",
    [{"crf": 20.0, "bitrate": 1_000_000}, {"size": (640, 360), "scale": 2}, {"backend": "bicubic", "model": "fsrcnn"}],
)
def test_options_that_exclude_each_other(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Config(**options)  # type: ignore[arg-type]
