"""The command line: arguments, commands, signals and exit codes.

Contains the parser (`parser`, `main`), what each command does (`commands`, `bench`, `doctor`, `listing`, `demo`,
`latency`, `screenshot`), and signals and how results are printed (`terminal`). May import everything below; nothing
imports it. Start reading in `main`.
"""
