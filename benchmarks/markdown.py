"""What the tables of several subjects share."""

from collections.abc import Mapping


def milliseconds(block: Mapping[str, float]) -> str:
    """p50 and p99 of a block of percentiles in ms."""
    return f"{block['p50']:.1f} / {block['p99']:.1f}" if block.get("count") else "not measured"
