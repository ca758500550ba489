"""TensorRT: engines built from ONNX for this GPU (`build`, `builder`), run with pycuda's streams and pinned memory.

Contains the `engine`, the network as TensorRT sees it (`graph`, `frames`), the steps of precision (`ladder`), the CUDA
side (`driver`, `program`) and what is installed (`library`).
"""
