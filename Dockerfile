# For CPUs: the lock has PyTorch's own CPU build of torch. For NVIDIA GPUs there is a variant.
#
# Build:  docker build -t headrace .
#         with another Python, 3.11 or newer: --build-arg PYTHON=3.13
# Run:    docker run --rm -p 8000:8000 -v headrace-cache:/cache headrace serve [MODEL] [options]
#
# The variant (not tried) has the package index's torch, which brings CUDA's libraries (several gigabytes) and Triton, and
# a C compiler, which Triton wants while the server runs.
#         docker build --build-arg LOCK=deploy/requirements-cuda.lock --build-arg RUNTIME_PACKAGES="gcc libc6-dev" \
#             -t headrace:gpu .
#         docker run --gpus all ... headrace:gpu, with NVIDIA's container toolkit; or deploy/docker-compose.gpu.yml

ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG PIP_ARGS=""
ARG LOCK=deploy/requirements.lock
RUN python -m venv /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH
WORKDIR /src
# For the CPU kernels, which are compiled into the package for every kind of processor.
# By no version: the compiler does not get into the image, and old versions leave Debian's mirrors.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The dependencies are a layer of their own, so that a change of the code does not fetch torch again.
COPY ${LOCK} requirements.lock
RUN pip install --no-cache-dir --require-hashes ${PIP_ARGS} -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY engine engine
COPY models models
# Without isolation: it would fetch setuptools, which is in the lock, without a hash.
RUN HEADRACE_WHEEL_LEVELS=all pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:${PYTHON}-slim
ARG RUNTIME_PACKAGES=""
# hadolint ignore=DL3008,SC2086
RUN [ -z "${RUNTIME_PACKAGES}" ] \
    || { apt-get update \
    && apt-get install --yes --no-install-recommends ${RUNTIME_PACKAGES} \
    && rm -rf /var/lib/apt/lists/*; }
RUN useradd --create-home --uid 1000 headrace \
    && install --directory --owner=headrace --group=headrace /cache /data
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HEADRACE_HOST=0.0.0.0 \
    HEADRACE_CACHE=/cache \
    TRITON_CACHE_DIR=/cache/triton \
    HF_HOME=/cache/huggingface
# By number, so that Kubernetes can tell that it is not root.
USER 1000
WORKDIR /home/headrace
VOLUME /cache
EXPOSE 8000
# /health is 503 until the model is loaded: --start-period covers a first download.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"HEADRACE_PORT\", 8000)}/health', timeout=4)"]
# `docker stop --time 40` leaves room for --shutdown-timeout (30 s); Docker's own default is 10 s.
ENTRYPOINT ["headrace"]
CMD ["serve"]
