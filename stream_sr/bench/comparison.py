"""Two measurements side by side: what became faster or slower, and whether they may be compared at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_sr.bench.rounds import row_name
from stream_sr.errors import ConfigError

KEY = ("model", "scale", "width", "height", "backend", "precision")
MACHINE = ("cpu", "cores", "memory_gib", "gpus")
LATENCY = "p99"  # of the latency, which live measurements are judged by


def read_result(path: Path) -> dict[str, Any]:
    """What `stream-sr bench --json` wrote. Raises ConfigError."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}; `stream-sr bench --json {path.name}` writes it") from error
    forms = {"kind": str, "rows": list, "settings": dict, "machine": dict}
    if not isinstance(data, dict) or not all(isinstance(data.get(name), form) for name, form in forms.items()):
        raise ConfigError(f"{path} is no result of `stream-sr bench --json`: {', '.join(sorted(forms))} belong in it")
    if not all(map(_is_row, data["rows"])):
        raise ConfigError(f"{path} has rows that are none of `stream-sr bench --json`; measure again")
    return data


def _is_row(row: Any) -> bool:
    """Whether it has what is compared; one without a figure (``error``) need not."""
    return isinstance(row, dict) and ("fps" not in row or {*KEY, "latency_ms", "cpu_ms_per_frame"} <= set(row))


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Rows that both have, with the ``ratio`` of their speeds, ``before`` being 1; more is better.

    ``worse_percent`` is by how much the second is slower, or for live measurements later (`LATENCY`); negative where
    it is better. Rows without a figure, or that the second lacks, are in ``missing``; ``machines`` and ``settings``
    list what differs, ``libraries`` which versions do. Raises ConfigError for measurements of different kinds and
    where no row is in both.
    """
    if before["kind"] != after["kind"]:
        raise ConfigError(f"'{before['kind']}' and '{after['kind']}' measure different things; compare like with like")
    theirs = _by_key(after["rows"])
    rows, missing = [], []
    for key, row in _by_key(before["rows"]).items():
        other = theirs.pop(key, None)
        if other is None:
            missing.append(row_name(row))
        else:
            rows.append(_pair(row, other, live=before["kind"] == "live"))
    if not rows:
        raise ConfigError("no model, size, backend and precision is in both measurements; there is nothing to compare")
    return {
        "kind": before["kind"],
        "rows": rows,
        "missing": missing,
        "added": [row_name(row) for row in theirs.values()],
        "machines": _differences(before["machine"], after["machine"], MACHINE),
        "settings": _differences(before["settings"], after["settings"]),
        "libraries": _differences(before["machine"].get("libraries", {}), after["machine"].get("libraries", {})),
    }


def _pair(row: Mapping[str, Any], other: Mapping[str, Any], *, live: bool) -> dict[str, Any]:
    late = [one["latency_ms"][LATENCY] for one in (row, other)]
    speed = other["fps"] / row["fps"] if row["fps"] else 0.0
    worse = late[1] / late[0] - 1 if live else 1 - speed
    return {
        "name": row_name(row),
        "fps": [row["fps"], other["fps"]],
        "ratio": round(speed, 4),
        f"{LATENCY}_ms": late,
        "cpu_ms_per_frame": [row["cpu_ms_per_frame"], other["cpu_ms_per_frame"]],
        "variation_percent": max(row.get("variation_percent", 0.0), other.get("variation_percent", 0.0)),
        "worse_percent": round(100 * worse, 2),
    }


def missed(comparison: Mapping[str, Any], percent: float) -> list[str]:
    """Names of rows that are worse by more than ``percent``, and of those that are no longer there."""
    return [row["name"] for row in comparison["rows"] if row["worse_percent"] > percent] + list(comparison["missing"])


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Rows with figures by their key; of those that turned out alike (``--precision auto,bf16``) each by its number."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    seen = Counter[tuple[Any, ...]]()
    for row in rows:
        if "fps" in row:
            key = tuple(row[part] for part in KEY)
            found[*key, seen[key]] = row
            seen[key] += 1
    return found


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{key}: A {_shown(one.get(key))}, B {_shown(other.get(key))}"
        for key in names or sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        names = [str(item.get("name", item)) if isinstance(item, dict) else str(item) for item in value]
        return ", ".join(names) or "none"
    return "none" if value is None else str(value)


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as a table; differences of machine and settings come first, for they make the rest doubtful."""
    lines = [f"warning: different machines: {text}" for text in comparison["machines"]]
    lines += [f"warning: different settings: {text}" for text in comparison["settings"]]
    lines += [f"note: {text}" for text in comparison["libraries"]]
    rows = comparison["rows"]
    wide = max(len(row["name"]) for row in rows)
    pairs = [(f"{side} {what}", 9) for what in ("p99", "cpu") for side in "AB"]
    titles = [("A fps", 9), ("B fps", 9), ("B / A", 8), ("+-%", 6), *pairs]
    lines.append(" " * wide + "".join(f"{title:>{width}}" for title, width in titles))
    for row in rows:
        late, cpu = row[f"{LATENCY}_ms"], row["cpu_ms_per_frame"]
        lines.append(
            f"{row['name']:<{wide}}{row['fps'][0]:>9.1f}{row['fps'][1]:>9.1f}{row['ratio']:>8.3f}"
            f"{row['variation_percent']:>6.0f}{late[0]:>9.2f}{late[1]:>9.2f}{cpu[0]:>9.2f}{cpu[1]:>9.2f}"
        )
    lines += [f"only in A: {text}" for text in comparison["missing"]]
    lines += [f"only in B: {text}" for text in comparison["added"]]
    lines.append("p99: of the latency, in ms; cpu: ms of processor time per frame, all threads; +-%: of the rounds")
    return "\n".join(lines)
