"""Small untrained models for tests: every form of graph that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stream_sr.inference.model import ModelSpec
from stream_sr.networks.registry import build_network
from stream_sr.training.export import write_model

FSRCNN = {"kind": "FSRCNN", "d": 16, "s": 6, "m": 1, "kernel": 9}
PLAIN = {"kind": "PlainSR", "width": 8, "depth": 1}
RECURRENT = {"kind": "RecurrentSR", "width": 8, "depth": 1}


def small_model(folder: Path, network: dict[str, Any], scale: int) -> ModelSpec:
    """A network as exported, its weights shaken so that nothing of it is trivial."""
    torch.manual_seed(scale)
    arguments = {key: value for key, value in network.items() if key != "kind"}
    module = build_network(network["kind"], scale=scale, **arguments)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        if network["kind"] == "RecurrentSR":
            module.gate[-1].bias.fill_(0.8)  # type: ignore[index, union-attr]  # the last output counts
    return write_model(folder, name=network["kind"].lower(), scale=scale, network=network, module=module)
