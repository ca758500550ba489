"""Where the figures of a running program are served: flags of its commands, and keys of the `serve` file."""

from __future__ import annotations

from dataclasses import dataclass

from stream_sr.config.kinds import Kind, whole
from stream_sr.config.option import option

DEFAULT_HOST = "127.0.0.1"
MOST_HOST = 253  # characters of a host name, RFC 1035


def _host(text: str) -> str:
    if not 0 < len(text) <= MOST_HOST or not text.isprintable():
        raise ValueError(text)
    return text


HOST = Kind(_host, "a host; write an address of this machine, such as 127.0.0.1", "HOST")


@dataclass(frozen=True, kw_only=True)
class MetricsOptions:
    """``metrics_port`` None: nothing is served. ``metrics_host`` None: `DEFAULT_HOST`."""

    metrics_port: int | None = option(None, whole(0, 65535, "PORT"), "serve /metrics (Prometheus) and /healthz there")
    metrics_host: str | None = option(None, HOST, "... at this address", unset=DEFAULT_HOST)
