"""The running application: one filter from a source to its sinks, and what is shown and changed while it runs.

Contains the run (`session`), its `controls`, `telemetry`, `status` and `metrics`, and the daemon for many cameras
(`supervisor`, with its file in `fleet`). May import everything below `bench`. Start reading in `session`.
"""
