"""The machine and the operating system: what there is, what this process may use, and text made safe to print.

Contains `machine` (processor, GPUs, libraries), `limits` (cores and memory that a container leaves), `sockets` and
`printable`. May import `errors` alone. Start reading in `machine`.
"""
