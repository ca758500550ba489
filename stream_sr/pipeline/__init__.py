"""The flow: threads, ring buffers, stages, and the contracts that sources, engines, encoders and sinks fulfil.

Contains `pipeline` (what runs), `stages` (late frames are dropped in `stages.drop_late`), `ring` (full rings drop or
block), `threads` (the one place that starts threads), `stats`, `stall`, and the contracts: `interfaces`, `engine`,
`packets`. May import `video`, `system` and `errors`. Start reading in `pipeline`.
"""
