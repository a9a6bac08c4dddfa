# make demo: all three phases on real text. make test: the tests. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slurm-trixie install lint clean

demo: install
	$(BIN)/python -m xtrain demo

# compiled modules are kept even where an image says otherwise: hundreds of processes import this project
test: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --durations=30 tests

# tests/slurm on a cluster of SLURM 24.11 in place of this machine's release: unpacked from Debian, never installed.
# TESTS=tests/slurm is all of it.
TESTS ?= tests/slurm/test_cluster.py tests/slurm/test_queries.py tests/slurm/test_life.py
SLURM_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/xtrain-ci/slurm
slurm-trixie: install
	root=$$($(BIN)/python tests/slurm/daemons.py $(SLURM_CACHE) trixie) && \
	XTRAIN_SLURM_ROOT=$$root PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10 $(TESTS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict xtrain
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache
