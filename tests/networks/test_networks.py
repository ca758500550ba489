"""The networks: published sizes, the two forms of the head, any input size, and the transfer between scales."""

import numpy as np
import pytest
import torch

from stream_sr.networks.fsrcnn import FSRCNN
from stream_sr.networks.layers import Anchor, Collapsible, Deconvolution, bound, collapse, expand, operator_norm
from stream_sr.networks.plain import PlainSR
from stream_sr.networks.recurrent import RecurrentSR, repeated
from stream_sr.networks.registry import LumaGraph, build_network, transfer
from stream_sr.video.optical_flow import NO_REFERENCE, register

pytestmark = pytest.mark.long


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


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5)])
def test_the_plain_network_takes_any_size(scale: int, height: int, width: int) -> None:
    network = PlainSR(scale=scale, width=4, depth=1)
    for mode in (True, False):
        assert network.train(mode)(torch.rand(2, 1, height, width)).shape == (2, 1, height * scale, width * scale)


def test_a_fresh_plain_network_repeats_the_pixel() -> None:
    x = torch.rand(1, 1, 6, 7)
    repeated = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert (PlainSR(scale=3).eval()(x) - repeated).abs().max() < 0.05


def shake(network: torch.nn.Module) -> None:
    """Move every trained weight, as training does."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in (p for p in network.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


@pytest.mark.parametrize("depth", [1, 6])
def test_merging_the_branches_is_exact(depth: int) -> None:
    network = PlainSR(scale=2, width=8, depth=depth).eval()
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    x = torch.rand(1, 1, 12, 9)
    before = network(x)
    expand(network)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-6)  # it goes on where it was
    shake(network)
    trained = network(x)
    assert not torch.allclose(trained, before, atol=1e-2)
    collapse(network)
    torch.testing.assert_close(network(x), trained, rtol=0, atol=1e-5)
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes


def test_the_merged_kernel_is_the_sum_of_its_branches() -> None:
    """Each branch run as a network of its own, zero padding and all."""
    torch.manual_seed(3)
    weight, x = torch.randn(4, 4, 3, 3), torch.randn(2, 4, 6, 5)
    block = Collapsible(weight)
    shake(block)
    assert block.identity is not None
    conv = torch.nn.functional.conv2d
    inside = conv(conv(x, block.wide, padding=1), block.project[:, :, None, None])
    apart = conv(x, weight, padding=1) + conv(x, block.point[:, :, None, None]) + inside
    apart += x * block.identity[:, None, None]
    torch.testing.assert_close(conv(x, block(weight), padding=1), apart, rtol=0, atol=1e-5)


def test_a_body_is_handed_on_between_scales_of_the_plain_network() -> None:
    source, target = PlainSR(scale=2, width=4, depth=2), PlainSR(scale=4, width=4, depth=2)
    shake(source)
    transfer(source, target)
    ours, theirs = source.state_dict(), target.state_dict()
    assert torch.equal(ours["body.1.weight"], theirs["body.1.weight"])
    assert torch.equal(target.anchor.weight, torch.ones(1, 1, 4, 4))


def recurrent(scale: int = 2) -> RecurrentSR:
    torch.manual_seed(5)
    network = RecurrentSR(scale=scale, width=6, depth=2)
    shake(network)
    return network.eval()


@pytest.mark.parametrize("skip", [False, True])
def test_where_nothing_came_before_the_recurrent_network_is_the_plain_one(skip: bool) -> None:
    network = RecurrentSR(scale=2, width=6, depth=2, skip=skip)
    shake(network)
    plain = PlainSR(scale=2, width=6, depth=2, skip=skip).eval()
    missing = network.eval().load_state_dict(plain.state_dict(), strict=False)
    assert all(key.startswith(("gate", "recall")) for key in missing[0])
    x = torch.rand(1, 1, 8, 9)
    torch.testing.assert_close(network(x[None], torch.zeros(1, 1, 2, 8, 9))[0], plain(x), rtol=0, atol=1e-6)
    expand(network)
    torch.testing.assert_close(network(x[None], torch.zeros(1, 1, 2, 8, 9))[0], plain(x), rtol=0, atol=1e-5)


def test_a_sequence_is_its_steps_and_the_past_counts() -> None:
    network, sequence = recurrent(), torch.rand(2, 3, 1, 8, 9)
    flow = torch.randint(-20, 21, (2, 3, 2, 8, 9), dtype=torch.int16)
    flow[0, 2] = NO_REFERENCE
    whole = network(sequence, flow)
    for n in range(2):
        for t in range(3):
            if t == 0 or (n, t) == (0, 2):
                previous = repeated(sequence[n : n + 1, t], 2)
            else:
                handed_on = (previous[0, 0] * 255).clamp(0, 255).round().to(torch.uint8).numpy()
                moved = np.empty_like(handed_on)
                register(handed_on, flow[n, t].numpy(), moved)
                previous = torch.from_numpy(moved)[None, None] / 255
            previous = network.step(sequence[n : n + 1, t], previous)
            torch.testing.assert_close(whole[n : n + 1, t], previous, rtol=0, atol=3e-3)  # `register` rounds
    other = sequence.clone()
    other[:, 0] += 0.5
    changed = (network(other, flow)[:, 2] - whole[:, 2]).abs().amax((1, 2, 3))
    assert changed[0] == 0
    assert changed[1] > 1e-4


def test_what_stood_still_before_an_example_is_shown_and_not_trained() -> None:
    network, sequence = recurrent(), torch.rand(3, 2, 1, 8, 9)
    expand(network)
    flow = torch.randint(-9, 10, (3, 2, 2, 8, 9), dtype=torch.int16)
    before = torch.rand(3, 5, 1, 8, 9)
    settled = network(sequence, flow, before[::2])
    longer = torch.cat([before, sequence], 1)
    still = torch.cat([torch.zeros(3, 6, 2, 8, 9, dtype=torch.int16), flow[:, 1:]], 1)
    torch.testing.assert_close(settled[::2], network(longer, still)[::2, 5:], rtol=0, atol=1e-6)
    torch.testing.assert_close(settled[1], network(sequence, flow)[1], rtol=0, atol=1e-6)
    assert (settled[0, 0] - network(sequence, flow)[0, 0]).abs().max() > 1e-4
    network(sequence, flow, before[::2])[:, :1].sum().backward()
    assert all(one.grad is not None for one in network.parameters() if one.requires_grad)


def test_the_state_cannot_grow_by_itself() -> None:
    """Whatever the gate says: with nothing from the layers, what is handed on is at most what came."""
    network = recurrent()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()  # type: ignore[union-attr]
        x, previous = torch.rand(1, 1, 8, 9), torch.rand(1, 1, 16, 18)
        known = (previous - repeated(x, 2)) * network.FADE
        for factor in (-100, 1, 100):
            network.gate[-1].bias.fill_(factor)  # type: ignore[operator]
            kept = network.step(x, previous) - repeated(x, 2)
            assert (kept.abs() <= known.abs() + 1e-6).all()
            assert (kept * known >= -1e-6).all()


def test_what_reads_the_state_cannot_amplify() -> None:
    memory = bound(torch.nn.Conv2d(6, 6, 3, padding=1, bias=False))
    memory.weight = torch.full((6, 6, 3, 3), 3.0)
    x = torch.randn(1, 6, 40, 40, generator=torch.Generator().manual_seed(1))
    for _ in range(20):  # power iteration towards the direction that grows most
        x = memory(x)
        x = x / x.norm()
    assert memory(x).norm() < 1.03
    memory.weight = torch.full((6, 6, 3, 3), 0.001)
    assert torch.allclose(memory.weight, torch.tensor(0.001))  # what is small stays as it is


def test_the_reference_designs() -> None:
    assert build_network("BareDeconvolution", scale=2)(torch.rand(1, 1, 5, 7)).shape == (1, 1, 10, 14)
    restored = build_network("Autoencoder", scale=1, width=4)(torch.rand(1, 1, 8, 12)).detach()
    assert restored.shape == (1, 1, 8, 12)
    assert 0 <= float(restored.min()) <= float(restored.max()) <= 1
    with pytest.raises(ValueError, match="enlarges by 2, not by 3"):
        build_network("BareDeconvolution", scale=3)
    with pytest.raises(ValueError, match="same size"):
        build_network("Autoencoder", scale=2)


@pytest.mark.parametrize(("c_out", "c_in"), [(8, 8), (3, 8), (8, 1)])
def test_the_operator_norm_is_the_largest_singular_value(c_out: int, c_in: int) -> None:
    weight = torch.randn(c_out, c_in, 3, 3, generator=torch.Generator().manual_seed(c_in))
    spectrum = torch.fft.rfft2(weight, s=(16, 16)).permute(2, 3, 0, 1)
    exact = float(torch.linalg.matrix_norm(spectrum, ord=2).max())
    assert exact * (1 - 1e-5) <= float(operator_norm(weight, 16)) <= exact * 1.005
    with torch.autocast("cpu", torch.bfloat16):
        assert exact * (1 - 1e-5) <= float(operator_norm(weight, 16)) <= exact * 1.005
    assert float(operator_norm(torch.zeros(4, 4, 3, 3), 16)) < 1e-20


def test_the_anchor_is_exact_in_every_form() -> None:
    x = torch.rand(2, 1, 5, 7)
    repeated = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    anchor = Anchor(3)
    assert torch.equal(anchor.eval()(x), repeated)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(anchor.train()(x), repeated)
    assert not any(parameter.requires_grad for parameter in anchor.parameters())


def test_a_bound_kernel_gets_no_branches() -> None:
    network = recurrent()
    expand(network)
    with torch.no_grad():
        network.recall.parametrizations.weight.original.mul_(100)  # type: ignore[union-attr, operator]
        assert float(operator_norm(network.recall.weight, 16)) <= 1 + 1e-5
