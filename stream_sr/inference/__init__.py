"""Engines: a model opened by a backend, checked against the reference, exchanged while the filter runs.

Contains `engines` (`open_engine`, and what ``auto`` chooses), `model`, `reference` and `verify`, the `cache`, wrappers
around engines (`hot_swap`, `auto_model` with its `governor`, `resize`) and the adapters in `backends`. May import
`codec`, `networks` and below. Start reading in `engines`.
"""
