"""OpenVINO: the backend of the processor.

Contains the `engine`, the `graph` that it compiles and its int8 form (`quantized_graph`), the choice of the precision
(`precision`: where int8 is chosen) and of threads, streams and frames in flight (`tuning`). May import what `backends`
may. Start reading in `engine`.
"""
