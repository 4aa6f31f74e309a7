# Each target does all its own set-up in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE := node_modules

.PHONY: demo test test-fast test-lowest check javascript browser benchmark dashboard detection recommendation temporal-order pictures clean

demo: $(READY)
	$(BIN)/gradwatch demo

test: $(READY) browser
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

# Reading, reports and the command line with the oldest versions that pyproject.toml allows (torch is the newest).
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[parquet]' hatchling hypothesis pillow \
	  pytest pytest-xdist scikit-learn scipy -c constraints-lowest.txt
	.venv-lowest/bin/python -m pytest -n 2 -m "not slow" tests/unit/analysis tests/unit/cli tests/unit/distributed \
	  tests/unit/export tests/unit/plugins tests/unit/sinks tests/unit/sources tests/unit/store tests/unit/views

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory javascript; \
	else echo "There is no Node.js: dashboards/ is neither linted, type-checked nor unit-tested."; fi

# Format, lint, types and unit tests of dashboards/.
javascript: $(NODE)/.ready
	$(NODE)/.bin/biome ci --error-on-warnings
	$(NODE)/.bin/tsc
	node --test-reporter=dot tests/dashboards/run.js

benchmark: $(READY)
	$(BIN)/python benchmarks/store.py | tee benchmarks/store.txt
	$(BIN)/python benchmarks/overhead.py | tee benchmarks/overhead.txt
	$(BIN)/python benchmarks/scaling.py | tee benchmarks/scaling.txt
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python benchmarks/long_run.py | tee benchmarks/long_run.txt
	$(BIN)/torchrun --nproc-per-node 4 benchmarks/ranks.py | tee benchmarks/ranks.txt

dashboard: $(READY) browser
	$(BIN)/python benchmarks/dashboard.py | tee benchmarks/dashboard.txt

detection: $(READY)
	$(BIN)/python benchmarks/detection/corpus.py
	$(BIN)/python benchmarks/detection/evaluate.py > benchmarks/detection/RESULTS.md

recommendation: $(READY)
	$(BIN)/python benchmarks/recommendation/regret.py train
	$(BIN)/python benchmarks/recommendation/regret.py report > benchmarks/recommendation/RESULTS.md
	$(BIN)/python benchmarks/recommendation/limit.py > benchmarks/recommendation/limit.txt

temporal-order: $(READY)
	$(BIN)/python benchmarks/temporal_order/experiment.py > benchmarks/temporal_order/RESULTS.md

pictures: $(READY) browser
	$(BIN)/python docs/pictures/make.py

clean:
	rm -rf $(VENV) $(NODE) .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Chromium for tests/browser; where it can't be installed they are skipped and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	     && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	|| echo "There is no Chromium: the tests in tests/browser are skipped."

# torch first and by itself: the constraint names a version that is to be had without CUDA where
# such a build is at hand; anything else of ours that needs torch is then content with it.
$(READY): pyproject.toml constraints.txt Makefile hatch_build.py gradwatch/measure/fused.c
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradwatch needs Python 3.11 or newer; make PYTHON=python3.12 takes another")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $(READY)

$(NODE)/.ready: package.json package-lock.json
	npm ci --silent --no-audit --no-fund
	touch $@
