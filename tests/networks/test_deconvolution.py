"""A deconvolution and its lowered form are the same function."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stream_sr.networks.deconvolution import lower_deconvolution, lowering_taps

FORMS = [(scale, kernel) for scale in (2, 3, 4) for kernel in (4, 5, 6, 9, 12)] + [(1, 3), (1, 9)]


@pytest.mark.parametrize(("scale", "kernel"), FORMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_lowering_is_exact(scale: int, kernel: int, channels: int) -> None:
    padding = (kernel - scale + 1) // 2
    more = scale + 2 * padding - kernel
    generator = torch.Generator().manual_seed(kernel * 10 + scale)
    weight = torch.randn(3, channels, kernel, kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3, 7, 5, generator=generator, dtype=torch.float64)
    right = F.conv_transpose2d(x, weight, stride=scale, padding=padding, output_padding=more)
    dense = torch.from_numpy(lower_deconvolution(weight.numpy(), scale, padding))
    lowered = F.pixel_shuffle(F.conv2d(x, dense, padding=dense.shape[-1] // 2), scale)
    assert right.shape == (1, channels, 7 * scale, 5 * scale)
    torch.testing.assert_close(lowered, right, rtol=0, atol=1e-12)


def test_kernel_of_three_strides_wastes_no_tap() -> None:
    for scale in (2, 3, 4):
        taps = lowering_taps(3 * scale, scale, scale)
        assert taps.shape == (scale, 3)
        assert sorted(taps.ravel()) == list(range(3 * scale))


def test_every_tap_is_used_once() -> None:
    taps = lowering_taps(9, 2, 4)
    assert sorted(taps[taps >= 0]) == list(range(9))


def test_oblong_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="3x5; it must be square"):
        lower_deconvolution(np.zeros((1, 1, 3, 5), np.float32), 2, 1)
