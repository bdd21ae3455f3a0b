# From a clean machine to the pipeline: `docker build --build-arg TORCH_INDEX=… -t nanogpt .`, then `docker run -it nanogpt`.
# TORCH_INDEX is the address of PyTorch's CPU builds, as pytorch.org names it; without it pip brings those for CUDA.
FROM python:3.13-slim

RUN apt-get update && apt-get install --yes --no-install-recommends git make g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /nanogpt
COPY . .
ARG TORCH_INDEX=""
RUN python3 -m venv .venv && .venv/bin/python -m pip install ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0
RUN make install
CMD ["make", "repro"]
