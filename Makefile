# make demo: the main job on real images.   make test: the tests.   Each sets up .venv first, on a fresh machine too.
# make TORCH=system demo: with the torch, torchvision and triton that PYTHON has, as on a machine with a GPU; then kept.
PYTHON ?= python3
VENV := .venv
TORCH ?= $(if $(wildcard $(VENV)/constraints.txt),system)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(VENV)/.native
TORCHVISION := $(VENV)/.torchvision
COMPILER := $(VENV)/.compiler
OBJECTS := $(VENV)/.objects
BROWSER := $(VENV)/.browser
SERVICE := $(VENV)/.service
POSTGRESQL := $(VENV)/.postgresql
FASHION_MNIST := /usr/share/datasets/fashion-mnist
DATA := $(if $(filter fashion-mnist --data=fashion-mnist,$(ARGS)),$(FASHION_MNIST))

MEASURED := models memory engines merged_speed channels_speed progressive_vs_direct channels_accuracy
# Tested besides the pinned versions: every triton that gfx908's kernels must be right with, the oldest and newest torch.
TRITONS := 3.6.0 3.7.1 3.8.0 3.9.0
TORCHES := 2.10.0 2.15.0
MATRIX_TRITON := $(TRITONS:%=matrix-triton-%)
MATRIX_TORCH := $(TORCHES:%=matrix-torch-%)
TRITON_TESTS := $(wildcard tests/kernels/test_*.py) tests/emulator/test_triton.py tests/backends/test_triton_backend.py

# Compiled Python is kept whatever the caller's environment says: the tests start many processes.
export PYTHONDONTWRITEBYTECODE :=

SUITES := micro blocks paper gpu $(MEASURED)

.PHONY: demo test test-slow test-deploy lint bench $(SUITES:%=bench-%) projection wheel setup clean
.PHONY: matrix matrix-triton $(MATRIX_TRITON) $(MATRIX_TORCH)

demo: setup $(DATA)
	$(BIN)/updp-rt demo $(ARGS)

# One thread a worker: small tensors gain nothing from more, and workers must not fight over the cores.
test: setup $(BROWSER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n auto --dist worksteal $(ARGS)

# What takes longer: larger models, processes that are killed, and Triton's kernels for other architectures than gfx908.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n auto -m slow $(ARGS)

# What asks for packages or programs of its own: the example service over HTTP, models of transformers, and searches that
# machines share.
test-deploy: setup $(SERVICE) $(POSTGRESQL)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m service $(ARGS)

$(SERVICE): examples/serve/requirements.txt $(wildcard tests/*/requirements.txt) | setup
	$(BIN)/pip install --quiet --disable-pip-version-check $(^:%=-r %)
	touch $@

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# All versions are tested, whichever fail. matrix-triton is what runs in minutes; CONTRIBUTING.md says what this costs.
matrix: setup
	$(MAKE) --keep-going test $(MATRIX_TRITON) $(MATRIX_TORCH)

matrix-triton: setup
	$(MAKE) --keep-going $(MATRIX_TRITON)

# What one triton compiles for gfx908, within its budgets, and what that computes on the emulator.
$(MATRIX_TRITON): matrix-%: .venv-matrix/%/.ready
	OMP_NUM_THREADS=1 .venv-matrix/$*/bin/python -m pytest $(TRITON_TESTS) -n auto --dist worksteal $(ARGS)

# The whole suite with one torch, and the triton that it asks for.
$(MATRIX_TORCH): matrix-%: .venv-matrix/%/.ready $(BROWSER)
	OMP_NUM_THREADS=1 .venv-matrix/$*/bin/python -m pytest tests -n auto --dist worksteal $(ARGS)

# Only the package that is to differ and what it asks for; all else is that of .venv, which stands behind.
.venv-matrix/%/.ready: | setup
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check $(subst -,==,$*) \
		|| { echo '$(subst -, ,$*) cannot be installed for this Python, so it is not tested.'; exit 1; }
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" \
		> $$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/behind.pth
	touch $@

# Slower than tests: speed of merged and accelerated models, and what is trained and compared (about an hour).
bench: $(MEASURED:%=bench-%)

# One suite or study: make bench-models ARGS="--model resnet34 --batch-size 1 --minutes 10". bench-gpu: on a machine with
# a GPU, in 8 minutes.
$(SUITES:%=bench-%): bench-%: setup $(DATA)
	$(BIN)/python -m benchmarks $* $(ARGS)

# Projected times of the HIP and Triton kernels and of whole models on an MI100; nothing is measured.
projection: setup
	$(BIN)/python -m benchmarks projection
	$(BIN)/python -m benchmarks whole_models

# A wheel in dist/, with code objects for gfx908 and gfx90a; at most 30 MB.
wheel: setup
	$(BIN)/updp-rt kernels build --arch gfx908,gfx90a
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@[ -z "$$(find dist -name '*.whl' -size +30M)" ] || { echo 'A wheel in dist/ is larger than 30 MB.'; exit 1; }

setup: $(OBJECTS) $(TORCHVISION)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' \
		|| { echo 'Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),system)
	$(PYTHON) -P updp_rt/_system_torch.py $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt -c $(VENV)/constraints.txt
else
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
endif
	touch $@

# PyPI's torchvision may belong to another build of torch than the one that is installed.
$(TORCHVISION): $(READY) updp_rt/_torchvision.py
	$(BIN)/python updp_rt/_torchvision.py
	touch $@

# The package itself and its native code; ninja compiles what changed.
$(NATIVE): $(READY) pyproject.toml setup.py $(shell find csrc -type f)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# For the HIP kernels.
FIND_COMPILER := $(BIN)/python -c 'from updp_rt.kernels.hip.compilers import find_compiler; find_compiler("gfx908")'
$(COMPILER): | $(NATIVE)
	@$(FIND_COMPILER) 2>/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update \
			&& apt-get install -y --no-install-recommends clang-15 lld-15 llvm-15 && $(FIND_COMPILER); } \
		|| { echo 'The HIP kernels need clang-15, lld-15 and llvm-15 (or hipcc of ROCm): install them.'; exit 1; }
	touch $@

# For the tests of the report's page.
FIND_BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome
$(BROWSER): | $(READY)
	@{ $(FIND_BROWSER); } >/dev/null 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update \
			&& apt-get install -y --no-install-recommends chromium && $(FIND_BROWSER); } \
		|| { echo 'The tests of the report need Chromium (Debian: the package chromium): install it.'; exit 1; }
	touch $@

# For the tests of searches that machines share.
FIND_POSTGRESQL := command -v initdb || ls /usr/lib/postgresql/*/bin/initdb
$(POSTGRESQL): | $(READY)
	@{ $(FIND_POSTGRESQL); } >/dev/null 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update \
			&& apt-get install -y --no-install-recommends postgresql && { $(FIND_POSTGRESQL); }; } \
		|| { echo 'The tests of shared searches need PostgreSQL (Debian: the package postgresql): install it.'; exit 1; }
	touch $@

# For the demo and the studies on Fashion-MNIST.
$(FASHION_MNIST):
	@{ [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update \
			&& apt-get install -y --no-install-recommends dataset-fashion-mnist; } \
		|| { echo 'Fashion-MNIST is not there: install it (Debian: the package dataset-fashion-mnist), or give a folder' \
			'that holds its files: --data idx/FOLDER.'; exit 1; }

# HIP's and Triton's code objects for gfx908, which the tests run on the emulator; only what changed is compiled.
$(OBJECTS): $(NATIVE) $(COMPILER) $(wildcard kernels/hip/*.hip kernels/hip/*.h kernels/triton/*.py) \
		updp_rt/backends/ahead.py updp_rt/backends/frozen.json
	$(BIN)/updp-rt kernels build --arch gfx908
	touch $@

clean:
	rm -rf $(VENV) .venv-matrix build dist kernels/hip/objects *.egg-info
	find updp_rt -name '*.so' -delete
