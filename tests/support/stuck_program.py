"""The program, stuck in a native call that holds the interpreter's lock: ``python stuck_program.py WHERE WORDS...``.

WHERE is ``main`` or ``thread``, which stand in the place of the command; or a file: the command runs, and once a
recording of some length is there a thread of it hangs. Signals and watchdog are the program's own.
"""

import itertools
import os
import sys
import threading
import time
from collections import deque

from stream_sr import __main__
from stream_sr.cli import main
from stream_sr.cli.terminal import StopSignals

ENOUGH_BYTES = 20_000


def hang() -> None:
    print("stuck", file=sys.stderr, flush=True)
    deque(itertools.repeat(None), maxlen=0)  # a loop in C, which never looks at signals


def hang_after(path: str) -> None:
    while not os.path.exists(path) or os.path.getsize(path) < ENOUGH_BYTES:
        time.sleep(0.01)
    hang()


def command(words: object = None) -> int:
    with StopSignals(reloads="serve" in sys.argv):
        if WHERE == "thread":
            thread = threading.Thread(target=hang)
            thread.start()
            thread.join()
        hang()
    return 0


WHERE = sys.argv.pop(1)
if WHERE in ("main", "thread"):
    main.main = command  # type: ignore[assignment]
else:
    threading.Thread(target=hang_after, args=[WHERE]).start()
sys.exit(__main__.main())
