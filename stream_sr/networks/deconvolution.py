"""A deconvolution as an ordinary convolution and a pixel shuffle, exactly.

ConvTranspose2d with kernel k, stride s, padding p and output padding o, whose output is exactly s times its
input (k - s - 2p + o = 0), is s*s convolutions at input size followed by depth-to-space (ONNX mode CRD):
``y[s*q + r] = sum_d W[r + p - s*d] x[q + d]`` (Shi et al., "Is the deconvolution layer the same as a
convolutional layer?", arXiv 1609.07009). Which form is faster depends on the runtime; both give the same values.
"""

import numpy as np
import numpy.typing as npt


def lowering_taps(kernel: int, stride: int, padding: int) -> npt.NDArray[np.int64]:
    """Which tap of a 1-D deconvolution kernel lands where in the dense convolution.

    Returns ``taps[stride, width]``: for output phase r and dense tap j (input offset d = j - width // 2) the index
    into the deconvolution kernel, or -1 where the dense kernel is zero. ``width`` is odd, so the dense convolution
    is padded by ``width // 2`` on both sides.
    """
    reach = 0
    for r in range(stride):
        for index in range(kernel):
            if (r + padding - index) % stride == 0:
                reach = max(reach, abs((r + padding - index) // stride))
    taps = np.full((stride, 2 * reach + 1), -1, np.int64)
    for r in range(stride):
        for d in range(-reach, reach + 1):
            index = r + padding - stride * d
            if 0 <= index < kernel:
                taps[r, d + reach] = index
    return taps


def lowering_index(kernel: int, stride: int, padding: int) -> npt.NDArray[np.int64]:
    """Index of each dense weight into the flattened k*k deconvolution kernel, ``[s*s, width, width]``.

    A weight that is zero in the dense form has the index k*k: append one zero to the flattened kernel.
    """
    taps = lowering_taps(kernel, stride, padding)
    s, width = taps.shape
    rows = taps[:, None, :, None]
    columns = taps[None, :, None, :]
    index = np.where((rows < 0) | (columns < 0), kernel * kernel, rows * kernel + columns)
    return index.reshape(s * s, width, width)


def lower_deconvolution(weight: npt.NDArray[np.float32], stride: int, padding: int) -> npt.NDArray[np.float32]:
    """Weights of the dense convolution that equals a deconvolution.

    ``weight`` is ``[C_in, C_out, k, k]`` (torch and ONNX order); the result is ``[C_out*s*s, C_in, width, width]``,
    to be followed by depth-to-space with block size ``stride`` in CRD order. The bias of output channel c is
    repeated s*s times.
    """
    c_in, c_out, k, k2 = weight.shape
    if k != k2:
        raise ValueError(f"deconvolution kernel is {k}x{k2}; it must be square")
    index = lowering_index(k, stride, padding)
    flat = np.concatenate([weight.reshape(c_in, c_out, k * k), np.zeros((c_in, c_out, 1), weight.dtype)], axis=2)
    dense = flat[:, :, index]  # [C_in, C_out, s*s, width, width]
    c = stride * stride
    return np.ascontiguousarray(dense.transpose(1, 2, 0, 3, 4).reshape(c_out * c, c_in, *index.shape[1:]))
