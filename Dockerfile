# Segments cases in a container: what lies in /input goes through a network, and masks go to /output.
#
#   docker build -t raum .                                   # for CPUs
#   docker build -t raum --build-arg DEVICE=cu130 .          # for NVIDIA GPUs; run it with --gpus all
#   docker run --rm --network none -v CASES:/input:ro -v MASKS:/output -v MODEL.safetensors:/model.safetensors:ro raum
#   apptainer build raum.sif docker-daemon://raum:latest     # on clusters
#
# /input holds a folder for each case, /output gets <case>.nii.gz. MASKS must be writable for user 1000.
FROM python:3.12.11-slim-bookworm

# cpu, or a CUDA version as in https://download.pytorch.org/whl/
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /raum
COPY constraints.txt ./
# torch first, from the index of its device; its version is that of the tests
RUN sed -e '/^nvidia-/d' -e '/^triton/d' constraints.txt > /tmp/constraints.txt \
    && pip install --index-url "https://download.pytorch.org/whl/${DEVICE}" -c /tmp/constraints.txt torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY raum_lightning raum_lightning
COPY experiments experiments
RUN pip install -c /tmp/constraints.txt . && useradd --uid 1000 --create-home raum && mkdir /input /output \
    && chown raum /output

USER 1000
WORKDIR /home/raum
ENTRYPOINT ["raum"]
CMD ["segment", "--model", "/model.safetensors", "--cases", "/input", "--out", "/output"]
