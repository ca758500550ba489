"""``python -m stream_sr`` is ``stream-sr``."""

import sys

from stream_sr.cli import main

sys.exit(main())
