# make demo: the main job, on a fresh machine.
# make test-fast: the tests of single modules, in less than a minute.   make test: all tests but the long forms.
# make test-all: those as well.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?= 20
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := -n $(WORKERS) --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-fast test-all check quality train-gpu readme docs clean soak auto overload fuzz live webcam peers

demo: $(VENV)/.demo
	$(BIN)/stream-sr demo --seconds $(DEMO_SECONDS) --out out

# The tests start the program some hundred times: it is compiled once.
unexport PYTHONDONTWRITEBYTECODE

test-fast: $(VENV)/.test
	$(PYTEST) $(SIDE_BY_SIDE) -m 'not (slow or serial or long or network or browser or gpu)'

# Two runs: what may run side by side, one file per worker; then, in one process, what needs the machine to itself.
test: $(VENV)/.test
	$(PYTEST) $(SIDE_BY_SIDE) -m 'not slow and not serial'
	$(PYTEST) -m 'serial and not slow'

test-all: $(VENV)/.test
	$(PYTEST) $(SIDE_BY_SIDE) -m 'not serial'
	$(PYTEST) -m serial

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "stream_sr needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing; on Debian: apt-get install python3-venv"; exit 1; }

# The demo installs no torch.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once)"
	$(PIP) --editable '.[demo]'
	@touch $@

# torch is pinned: any other request may bring several gigabytes of CUDA libraries.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) (once)"
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[demo,train,test]'
	@touch $@

# Figures: each writes JSON under benchmarks/results, `make readme` renders it.
quality: $(VENV)/.test
	$(BIN)/python -m benchmarks quality --data $(DATA) --record

# The shipped models, in slices of nine minutes; RUNS keeps the state. Pictures in data/train and data/photos, clips in clips/.
RUNS ?= runs
train-gpu: $(VENV)/.test
	$(BIN)/python -m benchmarks train-models --data data/train --data data/photos --clips clips --out $(RUNS)

# Long runs, on a quiet machine.
soak: $(VENV)/.test
	$(BIN)/python -m benchmarks soak --minutes 30
	$(BIN)/python -m benchmarks soak --minutes 30 --cameras 4 --size 320x180@15 --out benchmarks/results/soak4.json
	$(BIN)/python -m benchmarks viewers --seconds 300
	$(BIN)/python -m benchmarks memory --minutes 10

auto: $(VENV)/.test
	$(BIN)/python -m benchmarks auto --seconds 300

overload: $(VENV)/.test
	$(BIN)/python -m benchmarks overload --seconds 300

fuzz: $(VENV)/.test
	$(BIN)/python -m benchmarks fuzz --seconds 600 --inputs 100000

# A real /dev/video0 without a camera, in QEMU; as root on Debian, about a minute.
webcam: $(VENV)/.test
	tests/webcam/run.sh $(BIN)/python

live: $(VENV)/.test
	$(BIN)/python -m benchmarks live --seconds 60

peers: $(VENV)/.test
	$(PIP) --editable '.[peers]'
	$(BIN)/python -m benchmarks peers

docs: $(VENV)/.test
	$(BIN)/python -m stream_sr.cli.options_page docs/options.md

readme: $(VENV)/.test
	$(BIN)/python -m benchmarks render

clean:
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache
