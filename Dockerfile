# rankray on one machine, on a CPU or with the host's GPUs (the image of a cluster is cluster/kubernetes/Dockerfile):
#
#   docker build -t rankray .
#   docker run --rm -it --shm-size 2g -v "$PWD:/work" rankray quickstart
#   docker run --rm -it --shm-size 2g --gpus all -e HF_HOME=/hub -v ~/.cache/huggingface:/hub -v "$PWD:/work" rankray \
#     search search.yaml
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt "/source[postgresql]" && rm -rf /source
WORKDIR /work
ENTRYPOINT ["rankray"]
