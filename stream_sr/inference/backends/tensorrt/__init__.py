"""TensorRT: engines built from ONNX for this GPU (`build`, `builder`), run with pycuda's streams and pinned memory.

Contains the `engine`, the fallback from fp16 to fp32 (`checked_engine`), the network as TensorRT sees it (`graph`,
`frames`), the CUDA side (`driver`, `program`) and what is installed (`library`). May import what `backends` may, and
`cuda`. Start reading in `engine`.
"""
