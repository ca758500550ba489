"""The command line: arguments, commands, signals and exit codes.

Contains `main`, the parser (`command`, `parser`), one module per command (`commands/`), the longer parts of some
(`doctor`, `listing`, `demo`, `latency`, `screenshot`), signals and what is printed (`terminal`), and docs/options.md
(`options_page`). May import everything below; nothing imports it. Start reading in `main`.
"""
