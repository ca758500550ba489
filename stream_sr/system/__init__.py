"""The machine and the operating system. Every call that only some systems have is here, tested for, with a fallback.

Contains `machine`, `limits`, `energy` (what there is and may be used), `processes`, `signals`, `files`, `memory`,
`sockets`, `display`, `video_devices`, `watchdog` (calls), `features` (what is missing) and `printable` (safe text). May
import `errors` alone. Start reading in `machine` or `features`.
"""
