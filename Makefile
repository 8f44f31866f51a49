# Two commands on a fresh Linux machine with git, make and Python 3.11 or newer: `make demo` and `make test`.
# TORCH_SPEC chooses another torch build, also for later calls (TORCH_SPEC=torch==2.11.0 make demo). pip's own settings are
# honoured.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_SPEC ?=

.PHONY: demo test test-bench test-system lint bench bench-full docs install clean

demo: $(VENV)/demo.stamp
	$(BIN)/bertnli demo --out runs/demo

# Where this is set, each of the tests' thousand processes would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

# Some tests only wait for a time limit, so there is one worker more than cores.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -n $$(($$(env -u OMP_NUM_THREADS nproc) + 1)) $(PYTEST_ARGS)

# The benchmarks' own tests: nothing is measured in earnest.
test-bench: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -n auto -m 'bench and not system' tests/benchmarks $(PYTEST_ARGS)

# Three files at a time on two cores: the tests that make hosts of their own on one machine, one after the other, wait more
# than they compute. They need root. As root, missing packages are installed; otherwise the tests are skipped and say why.
SYSTEM_PACKAGES := gcc binutils openssh-server pdsh iproute2 faketime slurm-wlm munge openmpi-bin qemu-user \
	chromium chromium-driver

test-system: $(VENV)/test.stamp
	@if [ "$$(id -u)" = 0 ] && ! dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES); fi
	$(BIN)/python -m pytest -q -m system -n 3 --dist loadfile --no-loadscope-reorder --durations=15 $(PYTEST_ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks

bench-full: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks --full

docs: $(VENV)/test.stamp
	$(BIN)/python docs/api.py build/docs

install: $(VENV)/demo.stamp

# The TORCH_SPEC that was given last; it holds until another is given. The file is written only if it differs.
export TORCH_SPEC
$(VENV)/torch-spec: FORCE
	@mkdir -p $(VENV)
	@test -e $@ || touch -d @0 $@
	@test -z "$$TORCH_SPEC" || test "$$TORCH_SPEC" = "$$(cat $@)" || printf '%s\n' "$$TORCH_SPEC" > $@

FORCE:

# The constraints pin the tested versions. One pip call installs everything, so that pip resolves all of it together.
$(VENV)/%.stamp: pyproject.toml constraints.txt $(VENV)/torch-spec
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("bertnli needs Python 3.11 or newer; found %s: give one as PYTHON=/path/to/python3" % sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -s $(VENV)/torch-spec ]; then grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; else cp constraints.txt $(VENV)/constraints.txt; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt $$(cat $(VENV)/torch-spec) \
		-e '.[train,export$(if $(filter test,$*),$(comma)test)]'
	@touch $@
	@if [ "$*" = test ]; then touch $(VENV)/demo.stamp; fi

comma := ,

clean:
	rm -rf $(VENV) build dist *.egg-info
