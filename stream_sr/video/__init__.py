"""Values of video: frames and their memory, colour, time, orientation, motion, and measures of a picture.

Contains `frame`, `planes`, `frame_pool`, `color`, `timing`, `orientation`, `metadata`, `scene_cut`, `optical_flow`,
`resample`, `quality`, `barcode`. No threads and no files, but for pictures in `resample`. May import `system` and
`errors`. Start reading in `frame`.
"""
