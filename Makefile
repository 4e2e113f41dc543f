# The whole workflow. `make demo` and `make test` need Python 3.10-3.12, make and a package index.

SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
VENV = .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest
# A file at a time on each core.
PARALLEL = --numprocesses auto --maxprocesses 4 --dist loadfile

# What must hold on the newest TensorFlow, with neither tensorflow-io nor constraints.
CORE = models losses metrics optimiser preprocessing augmentation augmentation_statistics schema \
	reader pipeline training distribution training_twin prediction inference_network engines serving serving_client verify saved_model_safety \
	evaluation_report real_data

.PHONY: demo test test-slow test-latest test-beam test-backends check bench clean

demo: $(VENV)/installed  ## the main job on a phantom cohort
	$(BIN)/strokeseg-tf demo --out demo --overwrite

test: $(VENV)/installed  ## every test but the long ones
	$(PYTEST) -m "not slow" $(PARALLEL)

test-slow: $(VENV)/installed  ## the long ones
	$(PYTEST) -m slow

test-latest: .venv-latest/installed  ## the core on the newest TensorFlow, without tensorflow-io
	.venv-latest/bin/python -m pytest -m "not slow" $(PARALLEL) $(CORE:%=tests/test_%.py)

test-beam: .venv-beam/installed  ## conversion in Apache Beam, whose pins differ from ours
	.venv-beam/bin/python -m pytest tests/test_beam.py

test-backends: .venv-backends/installed  ## networks and recipe on JAX and PyTorch
	.venv-backends/bin/python -m pytest tests/test_models.py -k another_backend

check: $(VENV)/installed  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/installed  ## the claims of the README, measured
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .venv-latest .venv-beam .venv-backends demo

# constraints.txt holds the versions that were tested together.
$(VENV)/installed: setup.cfg constraints.txt
	$(call new_environment,$(VENV))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[io,test]'
	touch $@

.venv-latest/installed: setup.cfg
	$(call new_environment,.venv-latest)
	.venv-latest/bin/python -m pip install --quiet --upgrade --editable '.[test]'
	touch $@

.venv-beam/installed: setup.cfg
	$(call new_environment,.venv-beam)
	.venv-beam/bin/python -m pip install --quiet --editable '.[beam,test]'
	touch $@

.venv-backends/installed: setup.cfg
	$(call new_environment,.venv-backends)
	.venv-backends/bin/python -m pip install --quiet --editable '.[test]' jax torch
	touch $@

define new_environment
	@test -n "$(PYTHON)" || { echo "no Python 3.10, 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(1)
	@echo "installing into $(1); TensorFlow is large, this takes a few minutes"
endef
