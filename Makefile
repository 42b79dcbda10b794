# make submission: the complete workflow on demo data. make test: the tests. Both install .venv first.
# CORES=8 for more cores, PYTHON=python3.12 for another interpreter.
PYTHON ?= python3
CORES  ?= 4
SHELL  := /bin/bash
LOCK   := envs/requirements.lock
# For `make wheels`: the Python versions of Kaggle's images, a file with the names of the packages (empty: all), and
# the platform tags that pip accepts.
KAGGLE_PYTHON ?= 3.11 3.12
ONLY ?=
MANYLINUX := manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014

# Snakemake's jobs and the tests call `python` and `snakemake`, which must be those of .venv.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help submission report slurm test test-all test-slurm lint format wheels clean

help:
	@echo "make submission   install .venv, then run the workflow on the demo data; CORES=$(CORES)"
	@echo "make report       the same, then write one HTML page about it: results/demo/report.html"
	@echo "make slurm        add Slurm's plugin for Snakemake to .venv, for workflow/profiles/slurm"
	@echo "make test         install .venv, then run the tests, except the slow ones"
	@echo "make test-all     the same with the slow tests; takes about twice as long"
	@echo "make test-slurm   run the tests on a real Slurm, started on this machine (root, Debian's slurm-wlm)"
	@echo "make lint         ruff, snakefmt, mypy, import-linter, snakemake --lint"
	@echo "make format       ruff and snakefmt, changing files"
	@echo "make wheels       wheels/ for a notebook on Kaggle; KAGGLE_PYTHON='$(KAGGLE_PYTHON)', ONLY=FILE of names"
	@echo "make clean        remove the environments and caches, keep results/"

submission: .venv/installed
	.venv/bin/snakemake --quiet host rules --cores $(CORES) submission

report: .venv/installed
	.venv/bin/snakemake --quiet host rules --cores $(CORES) submission report

# On a cluster's login node. Not part of .venv from the beginning, see pyproject.toml.
slurm: .venv/installed
	.venv/bin/python -m pip install --quiet --requirement envs/slurm.lock

test: .venv/installed
	.venv/bin/python -m pytest -q --durations=15 -m "not slow"

test-all: .venv/installed
	.venv/bin/python -m pytest -q --durations=25

# The Slurm plugin has its own environment; pyproject.toml says why.
test-slurm: .venv-slurm/installed
	CARPOSE_SLURM_TESTS=1 .venv-slurm/bin/python -m pytest -q -rs --durations=0 tests/slurm

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow/rules workflow/studies.smk
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/snakemake --lint
	.venv/bin/snakemake -s workflow/studies.smk --lint

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/snakefmt Snakefile workflow/rules workflow/studies.smk

# Wheels of all pinned packages except torch and torchvision, which Kaggle's image has: see docs/running.md.
# With ONLY=envs/gpu_run.txt those that a machine with torch and timm usually lacks: see docs/lab/gpu_run.md.
wheels: .venv/installed
	rm -rf wheels && mkdir wheels
	grep -viE '^(torch|torchvision)==' $(LOCK) $(if $(ONLY),| grep -iE "^($$(paste -sd'|' $(ONLY)))==") > wheels/requirements.txt
	for version in $(KAGGLE_PYTHON); do \
	    .venv/bin/python -m pip download --quiet --no-deps --dest wheels --requirement wheels/requirements.txt \
	        --implementation cp --python-version $$version --platform any \
	        $(patsubst %,--platform %_x86_64,$(MANYLINUX)) || exit 1; done
	@# Packages that the registry has only as source.
	for source in wheels/*.tar.gz; do [ ! -e "$$source" ] || { \
	    .venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir wheels "$$source" && rm "$$source"; } || exit 1; done

# A stamp is written last, so that an interrupted installation starts again and a finished one is not repeated.
.venv/installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	         "name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "error: $(PYTHON) has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --requirement $(LOCK)
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# It has only the plugin and the plugin's own dependencies, and finds the packages of .venv through a .pth file.
.venv-slurm/installed: envs/slurm.lock .venv/installed
	$(PYTHON) -m venv --clear .venv-slurm
	base=$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	    echo "import site; site.addsitedir('$$base')" > "$${base/.venv/.venv-slurm}/base.pth"
	.venv-slurm/bin/python -m pip install --quiet --requirement $<
	touch $@

clean:
	rm -rf .venv .venv-slurm wheels .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info workflow/*.egg-info
