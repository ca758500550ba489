# stream_sr with TensorRT for NVIDIA GPUs:
#   docker build -t stream-sr . && docker run --rm --gpus all stream-sr doctor
# The driver comes from the host (NVIDIA Container Toolkit); "video" is for NVDEC and NVENC.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive NVIDIA_DRIVER_CAPABILITIES=compute,utility,video CUDA_ROOT=/usr/local/cuda
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/stream_sr
ENV PATH=/opt/stream_sr/bin:$PATH

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY stream_sr stream_sr
COPY engines engines
RUN pip install --no-cache-dir '.[tensorrt]'

ENTRYPOINT ["stream-sr"]
CMD ["doctor"]
