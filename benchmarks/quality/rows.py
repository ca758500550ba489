"""What the rows of the quality benchmarks share: the test sets, and the digest of the file that was measured."""

from stream_sr.inference.model import ModelSpec

INT8 = "int8"


def digest(model: ModelSpec, precision: str) -> str:
    """SHA-256 of the ONNX file that is computed in this precision."""
    return (model.as_int8() if precision == INT8 else model).sha256()
