"""Video devices of Linux, ``/dev/videoN``: cameras, and virtual ones that take pictures. Other systems show none."""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path

from stream_sr.system.files import NO_WAIT

IS_LINUX = sys.platform.startswith("linux")  # elsewhere a camera has no file that could be looked at
QUERY = 0x80685600  # VIDIOC_QUERYCAP: _IOR('V', 0, struct v4l2_capability), linux/videodev2.h
CAPABILITY = struct.Struct("<16s32s32sIII12x")  # driver, card, bus, version, capabilities, capabilities of this device
OUTPUT, HAS_DEVICE_CAPABILITIES = 0x2, 0x80000000
GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


def video_devices() -> list[Path]:
    """Return the device files, sorted."""
    return sorted(Path("/dev").glob("video*"))


def device_name(device: Path) -> str:
    """Return what the driver calls a device."""
    try:
        return (Path("/sys/class/video4linux") / device.name / "name").read_text().strip()
    except OSError:
        return "unknown camera"


def is_present(number: int) -> bool:
    """Whether camera ``number`` is still there, as far as the system says.

    Its file may stay for as long as a process has it open; opening it fails then.
    """
    if not IS_LINUX:
        return True
    try:
        os.close(os.open(f"/dev/video{number}", os.O_RDWR | NO_WAIT))
    except OSError as error:
        return error.errno not in GONE
    return True


def takes_pictures(device: Path) -> bool:
    """Whether frames can be written into a device. Raises OSError if it cannot be opened, ValueError if it is no video
    device, or the system has none."""
    descriptor = os.open(device, os.O_RDWR | NO_WAIT)
    try:
        import fcntl

        answer = fcntl.ioctl(descriptor, QUERY, bytes(CAPABILITY.size))
    except (OSError, ImportError) as error:
        raise ValueError(f"{device} is no video device") from error
    finally:
        os.close(descriptor)
    _, _, _, _, all_of_it, of_device = CAPABILITY.unpack(answer)
    return bool((of_device if all_of_it & HAS_DEVICE_CAPABILITIES else all_of_it) & OUTPUT)
