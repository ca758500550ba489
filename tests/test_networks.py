"""The networks: published sizes, the two forms of the head, any input size, and the transfer between scales."""

import pytest
import torch

from stream_sr.networks import FSRCNN, Deconvolution, LumaGraph, build_network, transfer


def test_sizes_are_those_of_the_paper() -> None:
    """Weights without biases, as the paper counts: 12,464 and 3,937; each PReLU has a slope per channel here."""
    for arguments, published in (({}, 12_464), ({"d": 32, "s": 5, "m": 1}, 3_937)):
        network = FSRCNN(scale=3, **arguments)
        weights = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 4)
        assert weights == published


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5)])
def test_output_is_exactly_the_multiple(scale: int, height: int, width: int) -> None:
    network = build_network("FSRCNN", scale=scale, d=8, s=4, m=1)
    for mode in (True, False):
        assert network.train(mode)(torch.rand(2, 1, height, width)).shape == (2, 1, height * scale, width * scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_training_and_eval_form_are_the_same(scale: int) -> None:
    torch.manual_seed(scale)
    head = Deconvolution(5, 1, 9, scale).double()
    x = torch.randn(1, 5, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(head.train()(x), head.eval()(x), rtol=0, atol=1e-12)


def test_a_fresh_network_interpolates() -> None:
    """Inside, a ramp comes out as the finer ramp."""
    ramp = torch.linspace(0.2, 0.7, 20).repeat(16, 1)[None, None]
    with torch.no_grad():
        larger = FSRCNN(scale=2).eval()(ramp)[0, 0, 16, 8:-8]
    step = (0.7 - 0.2) / 19
    expected = 0.2 + step * ((torch.arange(8, 32) + 0.5) / 2 - 0.5)
    assert (larger - expected).abs().max() < 0.02


def test_transfer_keeps_the_picture() -> None:
    torch.manual_seed(0)
    source, target = FSRCNN(scale=2).eval(), FSRCNN(scale=3).eval()
    transfer(source, target)
    picture = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 40, 40), 9, 1)
    with torch.no_grad():
        a, b = source(picture), target(picture)
    a, b = (torch.nn.functional.interpolate(x, size=(96, 96), mode="area") for x in (a, b))
    assert (a - b)[..., 12:-12, 12:-12].abs().max() < 0.03
    plain = torch.nn.Sequential()
    plain.add_module("head", torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(TypeError, match="Deconvolution"):
        transfer(plain, plain)


def test_the_graph_rounds_and_clamps() -> None:
    class Shift(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 - 0.25

    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = (levels.double() * 2 - 63.75).clamp(0, 255).round().to(torch.uint8)
    assert LumaGraph(Shift())(levels).equal(expected)


def test_unknown_networks_are_named() -> None:
    with pytest.raises(KeyError, match="VGG"):
        build_network("VGG", scale=2)
