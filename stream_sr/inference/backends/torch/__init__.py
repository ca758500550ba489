"""torch as a backend, without OpenVINO or TensorRT.

Contains `cpu` (fp32, the reference of the other backends), `cuda` and the network on whole frames (`frames`). May
import what `backends` may, and `cuda` of it. Start reading in `cpu`.
"""
