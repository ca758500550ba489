"""The whole job, side by side: decode, enlarge twice, encode; ours beside what people use today.

    python benchmarks/peers.py [--clip FILE] [--seconds 8] [--rounds 3] [--only NAME,...] [--redraw]

The truth is the clip at its full size, the input its half-size copy (bicubic, H.264). Every peer is a program of its
own (`peer.py`, ffmpeg, `stream-sr run`), all write H.264 ultrafast at the same CRF, and they run in turns, each for
about --seconds. ``fps`` is what one more second of film costs, (frames - 1) / (time of all - time of one frame);
``startup_seconds`` that one frame, from the start of the program to its end; ``peak_mib`` the memory of its processes;
PSNR is of luma against the truth. Networks with the same weights are compared before encoding. What cannot run here is
in ``left_out`` with its reason. Needs `pip install 'stream-sr[peers]'` and ffmpeg. Writes results/peers.json and
docs/peers.png. On a quiet machine: nothing else may run.
"""

import sys

from peers_run import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
