"""Engines: a model opened by a backend, checked against the reference, exchanged while the filter runs.

Contains `engines` (`open_engine`), `model`, `reference` and `verify`, the `cache`, engines that run on other engines
(`wrapper`, `hot_swap`, `auto_model`, `resize`, `background_build`) and the adapters in `backends` (int8 is chosen in
`backends.openvino.precision`). May import `codec`, `networks` and below. Start reading in `engines`.
"""
