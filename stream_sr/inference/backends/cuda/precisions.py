"""In what precisions the GPU backends compute."""

PRECISIONS = ("fp32", "fp16", "bf16")
AUTO_PRECISIONS = ("fp16", "bf16", "fp32")  # what ``auto`` tries, in this order
WARM_UPS = 3  # frames before a CUDA graph is captured
