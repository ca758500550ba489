"""The whole program beside what people use today: OpenCV, FFmpeg, OpenVINO, ONNX Runtime and torch."""
