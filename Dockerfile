# An image in which the README's two commands run:
#   docker build --tag wdl .
#   docker run wdl                                                                   make demo
#   docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN wdl make test
# The options of the last one let bubblewrap make the name spaces that programs of models run in.
FROM python:3.11-bookworm

# what the Makefile's "programs" would install
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
        bubblewrap chromium chromium-driver fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /wdl
COPY . .
RUN make .venv/installed .venv-vllm/installed

CMD ["make", "demo"]
