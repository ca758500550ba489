"""torch as a backend: `cpu` without OpenVINO, `cuda` without TensorRT; `frames` is their graph of a frame."""
