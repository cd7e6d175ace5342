# `make` alone explains itself. `make reproduce` and `make test` each start from nothing.

# Candidates, best first; the first that runs and has a fitting version makes the environment.
PYTHON ?= python3 python3.13 python3.12 python3.11
# The versions that were tested together; `make install PIP_CONSTRAINT=` takes the newest ones.
# Relative, since pip splits this variable at spaces and the checkout's path may have some.
TESTED := .ci/constraints.txt
PIP_CONSTRAINT ?= $(TESTED)
# How much `make reproduce` computes: smoke, demo or bench.
TIER ?= demo
# Test processes. Each keeps torch to one thread, so that they do not fight for the cores.
WORKERS ?= 2
# Notebooks that `make reproduce` runs at a time, with a thread each: as many as there are cores,
# but not more than most laptops have memory for.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -lt 4 ] && echo $$n || echo 4)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install reproduce baseline test check lab bench clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Make .venv with everything in it (done by the others when needed)

reproduce: $(INSTALLED)  ## Run the suite and write a report below reports/ (TIER=smoke|demo|bench)
	@$(BIN)/dtfn reproduce --tier $(TIER) --jobs $(JOBS)

baseline: $(INSTALLED)  ## Run the bench tier, and copy its report to reports/baseline and into the README
	@$(BIN)/dtfn reproduce --tier bench --jobs $(JOBS)
	@$(BIN)/python tools/baseline.py --readme README.md

test: $(INSTALLED)  ## Run the tests (DTFN_DATA=folder adds those on the real benchmarks)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(INSTALLED)  ## Lint, check the types and the notebooks' hygiene
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m mypy
	@$(BIN)/python tests/hygiene.py notebooks/*.ipynb

lab: $(INSTALLED)  ## Open the notebooks in JupyterLab
	@$(BIN)/python -m jupyter lab notebooks

bench: $(INSTALLED)  ## Print how near the networks run to the limit of this machine
	@$(BIN)/dtfn bench

clean:  ## Remove .venv and the tools' caches; pictures, networks and reports stay
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find dtfn tests -name __pycache__ -prune -exec rm -rf {} +

# A torch that the chosen Python already has (conda's, the system's, an active environment's) is
# put on the new environment's path, after its own packages, and is not downloaded again.
$(BIN)/python:
	@for python in $(PYTHON); do \
	    "$$python" -c "$$FITS" 2>/dev/null && break; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "dtfn needs Python 3.11, 3.12 or 3.13; none of '$(PYTHON)' is one;" \
	        "install one and name it: make install PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	set -e; \
	"$$python" -m venv --clear $(VENV); \
	"$$python" -c "$$FIND_TORCH" > "$$($@ -c "$$PACKAGES")/torch_of_base.pth"

# An installed torch that is new enough stays: its own version takes the place of the tested one.
# The filter is not `required`, since git would stumble over every notebook after `make clean`.
$(INSTALLED): pyproject.toml $(TESTED) $(BIN)/python
	@set -e; \
	if [ "$$PIP_CONSTRAINT" = $(TESTED) ] && torch=$$($(BIN)/python -c "$$PIN_TORCH" 2>/dev/null); then \
	    { grep -v '^torch==' $(TESTED); echo "$$torch"; } > $(VENV)/constraints.txt; \
	    export PIP_CONSTRAINT=$(VENV)/constraints.txt; \
	fi; \
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[notebook,dev]'; \
	if [ -e .git ]; then \
	    git config filter.nbstripout.clean '$(BIN)/python -m nbstripout --extra-keys metadata.language_info'; \
	    git config diff.ipynb.textconv '$(BIN)/python -m nbstripout -t'; \
	fi; \
	touch $@

# Succeed on a Python that fits.
define FITS
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
endef
# Print the folder that holds torch, or nothing.
define FIND_TORCH
import importlib.util, pathlib
spec = importlib.util.find_spec("torch")
if spec and spec.origin:
    print(pathlib.Path(spec.origin).parent.parent)
endef
# Print the folder that packages are installed into.
define PACKAGES
import sysconfig
print(sysconfig.get_path("purelib"))
endef
# Print the installed torch as a constraint; fail where there is none, or one that is too old.
define PIN_TORCH
import importlib.metadata
version = importlib.metadata.version("torch")
assert tuple(map(int, version.split(".")[:2])) >= (2, 6)
print("torch==" + version)
endef
export PIP_CONSTRAINT FITS FIND_TORCH PACKAGES PIN_TORCH
