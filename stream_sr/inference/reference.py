"""What a model makes of one small fixed picture, by ONNX's own reference evaluator: what every built engine is held to.

Stored beside the model as ``reference.npz`` by the export; for a model without it, it is computed (seconds; onnx).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream_sr.errors import EngineUnavailable, ModelError
from stream_sr.inference.model import PREVIOUS, ModelSpec
from stream_sr.video.optical_flow import PreviousOutput
from stream_sr.video.quality import texture

Plane = npt.NDArray[np.uint8]

TILE = (48, 64)  # height and width of the picture
VERSION = 3  # of the input that a recurrent network is given; the entry `form` of the file
MARGIN = 16  # input pixels that what lies beyond the tile may change; more than any network here looks


@dataclass(frozen=True, slots=True)
class Reference:
    """The results for `pictures`, uint8 ``[n, s*(48 - margin), s*(64 - margin)]``: the upper left of the tile.

    What is right and below of them depends on what follows the tile.
    """

    results: npt.NDArray[np.uint8]
    margin: int

    @property
    def scale(self) -> int:
        return self.results.shape[1] // (TILE[0] - self.margin)


def pictures(count: int) -> list[Plane]:
    """The fixed picture, ``[48, 64]``, so often: nothing moves, whatever lies around it."""
    return [texture(*TILE)] * count


def load(model: ModelSpec) -> Reference:
    """The model's stored reference if it is of this very ONNX, else computed. Raises ModelError, EngineUnavailable."""
    digest = model.sha256()
    try:
        with np.load(path_of(model)) as stored:
            if str(stored["onnx_sha256"]) == digest and (len(stored["results"]) == 1 or int(stored["form"]) == VERSION):
                return Reference(stored["results"], int(stored["margin"]))
    except (OSError, ValueError, KeyError):  # none, damaged, or of another version
        pass
    return compute(model)


def write(model: ModelSpec) -> Path:
    """Compute and store the reference beside the model."""
    found = compute(model)
    data = io.BytesIO()
    np.savez_compressed(data, results=found.results, margin=found.margin, onnx_sha256=model.sha256(), form=VERSION)
    path = path_of(model)
    path.write_bytes(data.getvalue())
    return path


def path_of(model: ModelSpec) -> Path:
    return model.onnx.with_name("reference.npz")


def compute(model: ModelSpec) -> Reference:
    """Run the model's graph on the pictures: one, or two in turn for a recurrent one."""
    results = evaluate(model, pictures(2))
    margin = MARGIN * len(results)
    scale = results[0].shape[0] // TILE[0]
    height, width = (scale * (side - margin) for side in TILE)
    return Reference(np.stack([result[:height, :width] for result in results]), margin)


def evaluate(model: ModelSpec, planes: list[Plane]) -> list[Plane]:
    """The graph's results for planes of one size in turn; for a network that is not recurrent only the first."""
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise EngineUnavailable("an engine of this model cannot be checked without onnx; pip install onnx") from error
    try:
        graph = onnx.load_from_string(model.onnx.read_bytes())
        evaluator = ReferenceEvaluator(graph)
        constants = {one.name for one in graph.graph.initializer}
        inputs = [one for one in graph.graph.input if one.name not in constants]
        names = {one.name for one in inputs} - {PREVIOUS}
        (luma,) = names
        recurrent = len(inputs) > 1
        last, results = PreviousOutput(model.scale) if recurrent else None, []
        for plane in planes if last else planes[:1]:
            given: dict[str, npt.NDArray[np.uint8]] = {luma: plane[None, None]}
            if last:
                previous = np.empty((plane.shape[0] * model.scale, plane.shape[1] * model.scale), np.uint8)
                last.write(plane, previous)
                given[PREVIOUS] = previous[None, None]
            (result,) = evaluator.run(None, given)
            results.append(np.asarray(result)[0, 0])
            if last:
                last.keep(results[-1])
    except EngineUnavailable:  # a recurrent network without OpenCV
        raise
    except Exception as error:  # protobuf's and the evaluator's own
        raise ModelError(f"{model.onnx} cannot be evaluated: {error}; export the model again") from error
    return results
