# make demo: the main job on real images.   make test: all tests.   Each sets up .venv first, on a fresh machine too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-gpu setup clean

demo: setup
	$(BIN)/updp-rt demo $(ARGS)

# One thread a worker: small tensors gain nothing from more, and workers must not fight over the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -n auto $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Slower than tests: speed of merged and accelerated models, and progressive against direct training (about an hour).
bench: setup
	$(BIN)/python -m benchmarks.accelerated
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.merged_speed
	$(BIN)/python -m benchmarks.progressive_vs_direct

# On a machine with a GPU, in 8 minutes.
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu $(ARGS)

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12)))' \
		|| { echo 'Python 3.11 or 3.12 is needed; name one with: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
