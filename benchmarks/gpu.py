"""`python benchmarks/gpu.py [options]`: the benchmark ``gpu`` from a checkout that is not installed, in any folder.

Options, sections and what it needs are described in `benchmarks/nvidia/suite.py`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of this folder

    from benchmarks.runner import main

    sys.exit(main(["gpu", *sys.argv[1:]]))
