# Two commands need nothing but Python 3.11 or newer: `make train` and `make test`. The latter leaves
# out the tests marked slow, which `make test-all` runs, too.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN || echo 2)
BIN := $(VENV)/bin

.PHONY: train test test-all lint docs docs-serve clean

train: $(VENV)/.experiments
	@$(BIN)/python -m experiments train configs/digits.yaml

# Files in their order: by their number of tests, those of whole commands would be last, one at a time.
test: SELECTED := -m "not slow"
test test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(SELECTED) $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs
	$(BIN)/mkdocs build

docs-serve: $(VENV)/.docs
	$(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gru_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making the environment $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)

# A stamp per set of extras, made only once the installation went through.
$(addprefix $(VENV)/.,experiments dev docs interop integrations test gpu-compiler tpu-compiler): $(VENV)/.%: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(BIN)/python scripts/install.py $*
	@touch $@
