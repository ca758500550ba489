"""A plain program for each peer library: decode, enlarge twice, encode. The benchmark `peers` runs and times them.

    python benchmarks/peers/transcode.py NAME IN OUT [--model FILE.onnx] [--frames N] [--keep FILE.npy]

Each is a plain loop: PyAV decodes and encodes with its threads at their default, the library computes luma with its
threads at their default, OpenCV's cubic enlarges chroma. --keep saves the enlarged luma before it is encoded.
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]
Network = Callable[[Iterable[Plane]], Iterator[Plane]]  # luma [H, W] to luma [2H, 2W], in order

CRF, PRESET = "18", "ultrafast"


def opencv_dnn(model: Path, size: tuple[int, int]) -> Network:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(model))

    def run(luma: Plane) -> Plane:
        net.setInput(luma[None, None])
        return net.forward()[0, 0]

    return each(run)


def openvino(model: Path, size: tuple[int, int]) -> Network:
    """Compiled for throughput at this size, as many requests in flight as OpenVINO thinks best."""
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(model)
    graph.reshape([1, 1, *size])
    compiled = core.compile_model(graph, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def network(lumas: Iterable[Plane]) -> Iterator[Plane]:
        idle = deque(compiled.create_infer_request() for _ in range(count))
        flying: deque[Any] = deque()

        def complete() -> Plane:
            request = flying.popleft()
            request.wait()
            idle.append(request)
            return request.get_output_tensor().data[0, 0].copy()

        for luma in lumas:
            if not idle:
                yield complete()
            flying.append(idle.popleft())
            flying[-1].start_async([luma[None, None].copy()])
        while flying:
            yield complete()

    return network


def onnxruntime(model: Path, size: tuple[int, int], provider: str = "CPUExecutionProvider") -> Network:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=[provider])
    (port,) = session.get_inputs()
    return each(lambda luma: session.run(None, {port.name: luma[None, None]})[0][0, 0])


def onnxruntime_cuda(model: Path, size: tuple[int, int]) -> Network:
    return onnxruntime(model, size, "CUDAExecutionProvider")


def torch(model: Path, size: tuple[int, int], device: str = "cpu", *, compiled: bool = False) -> Network:
    """The network in fp32, as it was trained."""
    import torch as library

    from stream_sr.inference.backends.torch.cpu import load_network
    from stream_sr.inference.model import find_model

    network: Any = load_network(find_model(str(model), None)).to(device)
    if compiled:
        network = library.compile(network)

    def run(luma: Plane) -> Plane:
        with library.inference_mode():
            unit = library.from_numpy(luma).to(device)[None, None].float() / 255
            result: Plane = (network(unit) * 255).clamp(0, 255).round().to(library.uint8)[0, 0].cpu().numpy()
            return result

    return each(run)


def torch_compile(model: Path, size: tuple[int, int]) -> Network:
    return torch(model, size, "cuda", compiled=True)


def opencv_resize(model: Path | None, size: tuple[int, int]) -> Network:
    return each(enlarge)


NETWORKS: dict[str, Callable[[Any, tuple[int, int]], Network]] = {
    "opencv-dnn": opencv_dnn,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
    "onnxruntime-cuda": onnxruntime_cuda,
    "torch": torch,
    "torch-compile": torch_compile,
    "opencv-resize": opencv_resize,
}


def each(run: Callable[[Plane], Plane]) -> Network:
    """One after the other."""
    return lambda lumas: (run(luma) for luma in lumas)


def enlarge(plane: Plane) -> Plane:
    import cv2

    return np.asarray(cv2.resize(plane, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)


def transcode(name: str, source: str, out: str, model: Path | None, frames: int | None, keep: Path | None) -> None:
    """The whole job."""
    kept: list[Plane] = []
    with av.open(source) as reader, av.open(out, "w") as writer:
        video = reader.streams.video[0]
        video.thread_type = "AUTO"
        width, height = video.width, video.height
        network = NETWORKS[name](model, (height, width))
        stream = writer.add_stream("libx264", rate=video.average_rate, options={"crf": CRF, "preset": PRESET})
        stream.width, stream.height, stream.pix_fmt = 2 * width, 2 * height, "yuv420p"
        chroma: deque[Plane] = deque()

        def lumas() -> Iterator[Plane]:
            for frame in islice(reader.decode(video), frames):
                planes = np.asarray(frame.to_ndarray(format="yuv420p"), np.uint8)  # luma, below it both chroma planes
                chroma.append(planes[height:])
                yield planes[:height]

        for number, luma in enumerate(network(lumas())):
            small = chroma.popleft().reshape(2, height // 2, width // 2)
            planes = np.concatenate([luma.ravel(), *(enlarge(plane).ravel() for plane in small)])
            if keep is not None:
                kept.append(luma)
            result = av.VideoFrame.from_ndarray(planes.reshape(3 * height, 2 * width), format="yuv420p")
            result.pts = number
            writer.mux(stream.encode(result))
        writer.mux(stream.encode(None))
    if keep is not None:
        np.save(keep, np.stack(kept))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(NETWORKS))
    parser.add_argument("source", metavar="IN")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--model", type=Path, metavar="FILE.onnx")
    parser.add_argument("--frames", type=int, metavar="N", help="only the first")
    parser.add_argument("--keep", type=Path, metavar="FILE.npy")
    parsed = parser.parse_args()
    transcode(parsed.name, parsed.source, parsed.out, parsed.model, parsed.frames, parsed.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
