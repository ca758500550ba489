"""How good a picture is: engines measured on pictures and films, and the plots and sheets that show it.

Contains `images` and `films` (PSNR, SSIM), `temporal` (consistency from frame to frame), `codec_roundtrip` (what a
codec leaves), `contact_sheet`, `before_after` and `plots`. May import `sinks` and below. Start reading in `images`.
"""
