"""The command line: arguments, commands, signals and exit codes.

Contains the parser (`parser`, `main`), what each command does (`commands`, `bench`, `doctor`, `listing`, `demo`,
`latency`, `screenshot`), how results are printed (`terminal`) and the process that ends a stuck program (`watchdog`).
May import everything below; nothing imports it. Start reading in `main`.
"""
