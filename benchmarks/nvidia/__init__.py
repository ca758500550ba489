"""Correctness and speed on an NVIDIA GPU. Imports neither av, cv2 nor openvino: a bare machine with torch runs it."""
