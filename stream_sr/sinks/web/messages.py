"""Binary messages to the page: a header, then data of the video stream or a JPEG image. `page.html` reads them."""

import struct

INIT, FRAGMENT, JPEG = 1, 2, 3  # kinds: the beginning of a stream (MP4), a frame of it, an image
HEADER = struct.Struct("<IIdd")  # kind, frame number, capture in ms of our monotonic clock, seconds in the stream
