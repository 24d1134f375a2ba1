# rankray on one machine, on a CPU or with the host's GPUs (the image of a cluster is cluster/kubernetes/Dockerfile):
#
#   docker build -t rankray .
#   docker run --rm -it --shm-size 2g -v "$PWD:/work" rankray quickstart
#   docker run --rm -it --shm-size 2g --gpus all -e HF_HOME=/hub -v ~/.cache/huggingface:/hub -v "$PWD:/work" rankray \
#     search search.yaml
FROM python:3.12-slim
COPY . /source
# torch names its own triton, and another one on each system.
RUN grep -v '^triton==' /source/constraints.txt >/tmp/constraints.txt \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "/source[postgresql]" \
    && rm -rf /source /tmp/constraints.txt
WORKDIR /work
ENTRYPOINT ["rankray"]
