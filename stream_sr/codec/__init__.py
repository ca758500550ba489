"""Codecs and containers, shared by sources and sinks: decoding to planes, the one encoder, H.264, fMP4, y4m.

Contains `decode`, `video_decoder`, `picture` (the one crossing of planes into FFmpeg), `encoder`, NVIDIA's `nvenc` and
`nvdec`, conversions (`swscale`, `rgb`, `side_by_side`, `deinterlace`), audio and subtitles (`aac`, `subtitles`). May
import `networks` and below, of which it uses `pipeline`, `video` and `system`. Start reading in `decode` or `encoder`.
"""
