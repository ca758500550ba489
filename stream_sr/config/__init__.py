"""Every option of the program: one table generates flags, environment variables, TOML keys, help and docs/options.md.

Contains the options of a run (`run_options`: `Config`), how an option is declared (`option`), what its value may be
(`kinds`), how flag, environment, file and default are combined (`precedence`) and the reader of TOML files.
May import everything below; commands declare their own options with `option`. Start reading in `run_options`.
"""

from stream_sr.config.kinds import size
from stream_sr.config.precedence import make_config
from stream_sr.config.run_options import Config

__all__ = ["Config", "make_config", "size"]
