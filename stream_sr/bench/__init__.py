"""How fast an engine is alone, how fast the whole filter, how late a live picture: figures as JSON, table and plot.

Contains `engine` and `run` (one measurement each), `rounds` (the order A B A B), `sweep` (what `stream-sr bench` runs),
`comparison`, `report` and `plot`. May import `app` and below. Start reading in `sweep`.
"""
