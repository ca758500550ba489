"""OpenVINO: the backend of the processor.

Contains the `engine`, the `graph` that it compiles (deconvolution lowered), eight-bit graphs (`quantized`), the choice
of the precision (`precision`: where int8 is chosen) and of threads (`tuning`).
"""
