"""Pictures as inputs: upright whatever their file says, whole or refused, and animated ones as the videos they are."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from heif_files import write_heic
from media_files import test_picture, upright
from PIL import Image, ImageDraw, ImageOps, ImageSequence

from stream_sr.cli.main import main
from stream_sr.codec.rgb import to_rgb
from stream_sr.codec.still import ImageContent, probe_image, webp_delays
from stream_sr.errors import DecodeError, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import kind_of, open_source
from stream_sr.video.color import Matrix, Range
from stream_sr.video.frame import Frame
from stream_sr.video.orientation import Orientation
from stream_sr.video.quality import psnr

pytestmark = pytest.mark.long

Array = npt.NDArray[Any]


def frames_of(path: Path, options: SourceOptions | None = None) -> list[Frame]:
    with closing(open_source(str(path), options or SourceOptions())) as source:
        frames = list(source.frames())
        assert all((frame.width, frame.height) == (source.info.width, source.info.height) for frame in frames)
        assert source.info.orientation == Orientation.UPRIGHT
    return frames


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture with a red and a blue corner: no two of its orientations look alike."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([60 + 120 * x / width, 60 + 120 * y / height, 90 + 40 * np.sin(x / 9)], axis=2)
    rgb[: height // 4, : width // 4] = (200, 30, 30)
    rgb[-height // 4 :, -width // 3 :] = (30, 30, 200)
    return Image.fromarray(rgb.astype(np.uint8))


# -- orientation -------------------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("RGB", {"quality": 95}), "jpg 4:2:2": ("RGB", {"quality": 95, "subsampling": 1}),
    "jpg 4:4:4": ("RGB", {"quality": 95, "subsampling": 0}), "jpg grey": ("L", {"quality": 95}),
    "png": ("RGB", {}), "png palette": ("P", {}), "png grey": ("L", {}), "png alpha": ("RGBA", {}),
    "png bits": ("1", {}), "webp": ("RGB", {"quality": 95}), "webp lossless": ("RGB", {"lossless": True}),
    "tiff": ("RGB", {}), "avif": ("RGB", {"quality": 95}), "avif alpha": ("RGBA", {"quality": 95}),
}  # fmt: skip


ODD_AT_ONCE = ("jpg", "png", "webp")  # the others of odd size take their time


@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, (64, 40)) for kind in FORMATS]
    + [pytest.param(k, (51, 37), marks=[] if k in ODD_AT_ONCE else [pytest.mark.slow]) for k in FORMATS],
    ids=str,
)
def test_pictures_are_turned_as_their_file_says(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Against Pillow's own turning of what is stored, and FFmpeg's reading of that."""
    mode, options = FORMATS[kind]
    ending = kind.partition(" ")[0]
    image = scene(*size).convert(mode)
    image.save(tmp_path / f"plain.{ending}", **options)
    stored = to_rgb(frames_of(tmp_path / f"plain.{ending}")[0])
    for orientation in Orientation:
        exif = Image.Exif()
        exif[0x0112] = int(orientation)
        path = tmp_path / f"{int(orientation)}.{ending}"
        image.save(path, exif=exif, **options)
        (frame,) = frames_of(path)
        wanted = upright(stored, orientation)
        assert (frame.width, frame.height) == (wanted.shape[1], wanted.shape[0])
        assert psnr(to_rgb(frame), wanted) > 30, orientation
        if ending != "avif":  # Pillow takes its orientation away when it writes properties for it
            with Image.open(path) as opened:
                reference = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
            assert psnr(to_rgb(frame), reference) > (20 if mode == "P" else 25), orientation


@pytest.mark.parametrize("orientation", Orientation)
def test_even_jpegs_are_turned_without_loss(orientation: Orientation, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = int(orientation)
    scene(64, 40).save(tmp_path / "plain.jpg")
    scene(64, 40).save(tmp_path / "turned.jpg", exif=exif)
    (plain,), (turned,) = frames_of(tmp_path / "plain.jpg"), frames_of(tmp_path / "turned.jpg")
    for one, two in zip(turned.planes, plain.planes, strict=True):
        assert np.array_equal(one, upright(two, orientation))
    assert turned.color == plain.color


def test_a_folder_has_one_size_after_turning(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(64, 40).save(tmp_path / "1.jpg", exif=exif)
    scene(40, 64).save(tmp_path / "2.jpg")
    assert [(frame.width, frame.height) for frame in frames_of(tmp_path)] == [(40, 64), (40, 64)]
    scene(64, 40).save(tmp_path / "3.jpg")
    with pytest.raises(DecodeError, match="40x64 to 64x40"):
        frames_of(tmp_path)


def test_a_run_writes_an_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 7
    scene(64, 40).save(tmp_path / "x.jpg", exif=exif)
    assert main(["run", str(tmp_path / "x.jpg"), str(tmp_path / "x.mp4"), "--backend", "bicubic", "--crf", "4"]) == 0
    with av.open(str(tmp_path / "x.mp4")) as container:
        picture = next(container.decode(video=0))
        assert picture.rotation == 0
        pixels = picture.to_ndarray(format="rgb24").astype(np.uint8)
    enlarged = scene(64, 40).resize((128, 80), Image.Resampling.BICUBIC)
    assert psnr(pixels, upright(np.asarray(enlarged), 7)) > 26


# -- HEIC and AVIF -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirror", [None, 0, 1])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_heic_pictures_are_turned_by_their_properties(turns: int, mirror: int | None, tmp_path: Path) -> None:
    """ISO/IEC 23008-12, 6.5.10 and 6.5.12: quarter turns counterclockwise, then top to bottom or left to right."""
    planes = test_picture(0, 96, 64)
    write_heic(tmp_path / "x.heic", [planes], turns=turns, mirror=mirror)
    (frame,) = frames_of(tmp_path / "x.heic")
    for plane, stored in zip(frame.planes, planes, strict=True):
        wanted = np.rot90(stored, turns)
        wanted = wanted if mirror is None else wanted[::-1] if mirror == 0 else wanted[:, ::-1]
        assert psnr(plane, wanted) > 30


def test_a_heic_picture_has_its_own_colours_and_is_not_its_thumbnail(tmp_path: Path) -> None:
    planes = test_picture(0, 96, 64)
    write_heic(tmp_path / "x.heic", [planes], nclx=(1, 13, 5, True), thumbnail=test_picture(3, 64, 64))
    (frame,) = frames_of(tmp_path / "x.heic")
    assert (frame.color.matrix, frame.color.range, frame.color.primaries) == (Matrix.BT470BG, Range.FULL, 1)
    assert all(psnr(one, two) > 35 for one, two in zip(frame.planes, planes, strict=True))


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo.jpg", "photo"])
def test_a_heic_picture_of_tiles_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    write_heic(path, [test_picture(number, 64, 64) for number in range(6)], columns=3)
    out = tmp_path / "out.mp4"
    assert main(["run", str(path), str(out), "--backend", "bicubic"]) == 3
    words = capsys.readouterr().err
    assert "consists of tiles" in words
    assert "ffmpeg -i" in words
    assert not out.exists()
    with pytest.raises(SourceOpenError, match="several parts"):  # as a URL it is not looked into
        open_source(f"file://{path}")


def test_a_folder_with_a_picture_of_tiles_is_refused_there(tmp_path: Path) -> None:
    write_heic(tmp_path / "1.heic", [test_picture(0, 64, 64)])
    write_heic(tmp_path / "2.heic", [test_picture(number, 64, 64) for number in range(4)], columns=2)
    with pytest.raises(DecodeError, match=r"2\.heic consists of tiles"):
        frames_of(tmp_path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_avif_pictures_have_their_colours(mode: str, tmp_path: Path) -> None:
    scene(64, 40).convert(mode).save(tmp_path / "x.avif", quality=95)
    (frame,) = frames_of(tmp_path / "x.avif")
    assert psnr(to_rgb(frame), np.asarray(scene(64, 40))) > 30


# -- animated pictures -------------------------------------------------------------------------------------------

DELAYS = [100, 200, 50, 300, 100, 150]


def drawn(*, transparent: bool) -> list[Image.Image]:
    """A square that moves and a bar that grows, on nothing or on blue."""
    images = []
    for number in range(len(DELAYS)):
        image = Image.new("RGBA", (48, 32), (0, 0, 0, 0) if transparent else (40, 80, 120, 255))
        draw = ImageDraw.Draw(image)
        draw.rectangle((4 * number, 4, 4 * number + 9, 13), fill=(220, 20, 20, 255))
        draw.rectangle((10, 20, 20 + 2 * number, 28), fill=(20, 200, 60, 255))
        images.append(image)
    return images


def save(path: Path, kind: str, *, transparent: bool = False, **options: Any) -> None:
    images = [image if transparent else image.convert("RGB") for image in drawn(transparent=transparent)]
    settings: dict[str, dict[str, Any]] = {
        "GIF": {"disposal": 2, "loop": 0},
        "PNG": {"disposal": 1, "blend": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95},
    }
    images[0].save(
        path, kind, save_all=True, append_images=images[1:], duration=DELAYS, **{**settings[kind], **options}
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def composed_png(data: bytes) -> list[Array]:
    """The canvas at each picture of an animated PNG: PNG 3rd edition, 11.3.6. Alpha is nothing or whole here."""
    head, pictures = b"", list[tuple[tuple[int, ...], bytearray]]()
    for kind, part in png_chunks(data):
        if kind == b"IHDR":
            head = part
        elif kind == b"fcTL":
            pictures.append((struct.unpack(">5I2H2B", part), bytearray()))
        elif kind in (b"IDAT", b"fdAT"):
            pictures[-1][1].extend(part[4 * (kind == b"fdAT") :])
    across, down = struct.unpack(">II", head[:8])
    canvas, shown = np.zeros((down, across, 4), np.uint8), list[Array]()
    for (_, width, height, x, y, _, _, dispose, blend), image_data in pictures:
        chunks = ((b"IHDR", struct.pack(">II", width, height) + head[8:]), (b"IDAT", image_data), (b"IEND", b""))
        whole = b"".join(
            struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
            for kind, part in chunks
        )
        pixels = np.array(Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + whole)).convert("RGBA"))
        before, area = canvas.copy(), canvas[y : y + height, x : x + width]
        covered = pixels[:, :, 3] > 0 if blend else np.ones(pixels.shape[:2], bool)
        area[covered] = pixels[covered]
        shown.append(canvas.copy())
        if dispose == 1 or (dispose == 2 and len(shown) == 1):
            area[:] = 0
        elif dispose == 2:
            canvas = before
    return shown


def assert_animation(path: Path, *, transparent: bool = False, least: float = 28.0) -> None:
    """Every picture at its time and for its time; where it is opaque as it was drawn."""
    frames = frames_of(path)
    seconds = [sum(DELAYS[:number]) for number in range(len(DELAYS))]
    assert [round(frame.seconds * 1000) for frame in frames] == seconds
    assert [round(frame.duration * frame.time_base * 1000) for frame in frames] == DELAYS
    assert [frame.number for frame in frames] == list(range(len(DELAYS)))
    for frame, image in zip(frames, drawn(transparent=transparent), strict=True):
        wanted = np.asarray(image)
        opaque = wanted[2:-2, 2:-2, 3] > 0  # chroma bleeds at the border of what is transparent
        got = to_rgb(frame)[2:-2, 2:-2].astype(int)
        apart = np.abs(got - wanted[2:-2, 2:-2, :3])[opaque].mean()
        assert apart < 12, (path, frame.number, apart)
        if not transparent:
            assert psnr(to_rgb(frame), wanted[:, :, :3]) > least


@pytest.mark.parametrize("transparent", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("GIF", "x.gif"), ("GIF", "x.png"), ("GIF", "x.jpg"), ("PNG", "x.png"), ("PNG", "100%d.PNG"), ("PNG", "x.apng"),
        ("WEBP", "x.webp"), ("WEBP", "x.png"), ("WEBP", "x.dat"), ("AVIF", "x.avif"), ("AVIF", "x.png"),
    ],
)  # fmt: skip
def test_animated_pictures_are_videos_whatever_their_name(
    kind: str, name: str, transparent: bool, tmp_path: Path
) -> None:
    save(tmp_path / name, kind, transparent=transparent and kind != "AVIF")
    assert_animation(tmp_path / name, transparent=transparent and kind != "AVIF", least=24)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {"disposal": 0}),
        ("GIF", {"disposal": 1}),
        ("GIF", {"disposal": 3}),
        ("PNG", {"disposal": 0, "blend": 1}),
        ("PNG", {"disposal": 0, "blend": 0}),
        ("PNG", {"disposal": 2, "blend": 1}),
        ("PNG", {"disposal": 1, "blend": 1}),
    ],
    ids=str,
)
def test_every_disposal_is_composed_as_the_format_says(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    """GIF against Pillow; PNG against its specification, because Pillow misreads the disposal "previous"."""
    path = tmp_path / "x.png"
    save(path, kind, transparent=True, **options)
    if kind == "GIF":
        with Image.open(path) as image:
            composed = [np.array(one.convert("RGBA")) for one in ImageSequence.Iterator(image)]
    else:
        composed = composed_png(path.read_bytes())
    frames = frames_of(path)
    assert len(frames) == len(composed)
    for frame, pixels in zip(frames, composed, strict=True):
        pixels[pixels[:, :, 3] == 0] = 255 if kind == "GIF" else 0  # FFmpeg's colour where nothing was drawn
        Image.fromarray(pixels[:, :, :3]).save(tmp_path / "still.png")
        (still,) = frames_of(tmp_path / "still.png")
        assert all(psnr(one, two) > 45 for one, two in zip(frame.planes, still.planes, strict=True))


def test_stills_stay_stills(tmp_path: Path) -> None:
    image = scene(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 1
    for name, options in (
        ("x.png", {}),
        ("x.webp", {}),
        ("y.webp", {"lossless": True, "exif": exif}),
        ("x.jpg", {}),
        ("x.bmp", {}),
        ("x.tif", {}),
        ("x.avif", {}),
        ("one.png", {"save_all": True, "duration": 100}),
    ):
        image.save(tmp_path / name, **options)
        assert kind_of(str(tmp_path / name)) == "pictures"
        (frame,) = frames_of(tmp_path / name)
        assert psnr(to_rgb(frame), np.asarray(image)) > 24, name
    save(tmp_path / "x.gif", "GIF")
    assert kind_of(str(tmp_path / "x.gif")) == "file"
    os.mkfifo(tmp_path / "pipe.png")
    assert probe_image(tmp_path / "pipe.png") is ImageContent.UNKNOWN  # and is not read


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_an_animated_picture_in_a_folder_is_refused(kind: str, tmp_path: Path) -> None:
    scene(48, 32).save(tmp_path / "1.png")
    save(tmp_path / "2.png", kind)
    with pytest.raises(DecodeError, match=r"2\.png is animated.*take it out of the folder"):
        frames_of(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_start_and_duration_of_an_animated_picture(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "x.png", kind)
    frames = frames_of(tmp_path / "x.png", SourceOptions(start=0.3, duration=0.36))
    assert [round(frame.seconds * 1000) for frame in frames] == [0, 50, 350]
    with pytest.raises(SourceOpenError, match="no picture at or after the start"):
        frames_of(tmp_path / "x.png", SourceOptions(start=5))


def test_a_webp_picture_without_a_delay_is_shown_as_browsers_do(tmp_path: Path) -> None:
    images = drawn(transparent=False)
    images[0].save(tmp_path / "x.webp", save_all=True, append_images=images[1:], duration=0, lossless=True)
    assert set(webp_delays(tmp_path / "x.webp")) == {0}
    assert [frame.pts for frame in frames_of(tmp_path / "x.webp")] == [100 * number for number in range(6)]


def test_a_damaged_animation_delivers_what_comes_before(tmp_path: Path) -> None:
    save(tmp_path / "x.webp", "WEBP")
    data = bytearray((tmp_path / "x.webp").read_bytes())
    fourth = [at for at in range(len(data)) if data[at : at + 4] == b"ANMF"][3]
    data[fourth + 40 : fourth + 70] = bytes(30)
    (tmp_path / "x.webp").write_bytes(data)
    got = list[Frame]()
    with closing(open_source(str(tmp_path / "x.webp"))) as source, pytest.raises(DecodeError, match="is damaged"):
        got.extend(source.frames())
    assert len(got) == 3
    (tmp_path / "y.webp").write_bytes(data[:40])
    with pytest.raises(SourceOpenError, match=r"y\.webp"):
        open_source(str(tmp_path / "y.webp"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_a_run_writes_every_picture_at_its_time(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "in.png", kind)
    out = tmp_path / "out.mp4"
    assert main(["run", str(tmp_path / "in.png"), str(out), "--backend", "bicubic"]) == 0
    with av.open(str(out)) as container:
        pictures = list(container.decode(video=0))
    moments = [round((picture.time or 0) * 1000) for picture in pictures]
    assert moments == [sum(DELAYS[:number]) for number in range(len(DELAYS))]
