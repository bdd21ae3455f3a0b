# A clean machine with the CPU build: `docker build -t nanogpt .`, then `docker run -it nanogpt` runs the pipeline.
# pip's default build of PyTorch brings CUDA; --build-arg TORCH_INDEX=… names PyTorch's CPU index, as on pytorch.org.
FROM python:3.13-slim

RUN apt-get update && apt-get install --yes --no-install-recommends git make g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /nanogpt
COPY . .
ARG TORCH_INDEX=""
RUN python3 -m venv .venv && .venv/bin/python -m pip install ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0
RUN make install
CMD ["make", "repro"]
