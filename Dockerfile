# docker build -t d2v . && docker run --gpus all --shm-size 8g -v DATA:/data -v RUNS:/d2v/runs d2v fit --config v2/vision.yaml --data.root /data
# The same locked versions as `make setup`; torch brings its own CUDA libraries, so the host needs a driver only.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/d2v
COPY . .
RUN make setup
ENV PATH=/opt/d2v/.venv/bin:$PATH
WORKDIR /d2v
ENTRYPOINT ["d2v"]
