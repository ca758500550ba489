"""Hostile input, in short; `make fuzz` is the long form."""

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.robustness.fuzz_targets import inputs, targets

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", list(targets()))
def test_nothing_escapes(name: str) -> None:
    target, seeds = targets()[name]
    examples = 60 if name in ("server", "client") else 200
    checks = list(HealthCheck)
    settings(max_examples=examples, deadline=None, suppress_health_check=checks)(given(inputs(seeds))(target))()
