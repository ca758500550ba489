"""What the GPU backends share.

Contains page-locked memory (`pinned`) and the overlap of upload, computation and download (`schedule`). Imports no CUDA
library, and what `backends` may import. Start reading in `schedule`.
"""
