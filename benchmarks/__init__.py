"""What the project measures of itself, grouped by subject. `python -m benchmarks --list` names every benchmark.

`runner` runs one by its name and writes its record (`record`) to ``results/NAME.json``; `render` makes the tables of
the documents from these records. `interface` says what a benchmark consists of. May import `stream_sr`, and nothing of
the tests. ``gpu.py`` is the entry for machines on which nothing is installed.
"""
