# Each target sets up what it needs in .venv.

PYTHON ?= python3
# What runs the tests of `make test`, `make test-slow` and `make test-lowest`; .ci/run has another.
PYTEST ?= -m pytest
# Another version of torch than the one in constraints.txt: make test TORCH=2.6.0
TORCH ?=
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready
NODE := node_modules
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow test-lowest trackers peers notebook coverage check javascript browser benchmark gpu dashboard detection diagnosis recommendation temporal-order pictures docs clean

demo: $(READY)
	$(BIN)/gradwatch demo

# Three workers on two cores: many tests wait, for a process or a browser. Threads of each worker would only wait for one
# another; tests of threads ask for theirs.
test test-slow test-lowest trackers peers notebook: export OMP_NUM_THREADS ?= 1
# Every worker and every process that a test starts imports the same modules, and pytest rewrites each test file: both are
# kept as bytecode, also where a shell says not to.
test test-slow test-lowest trackers peers notebook: export PYTHONDONTWRITEBYTECODE =

test: $(READY) browser
	$(BIN)/python $(PYTEST) -n 3 --dist worksteal -m "not slow and not peers" $(ARGS)

# The tests that `make test` leaves out. Each worker imports only the files that name the mark, and those of the browser,
# which their conftest.py marks.
test-slow: $(READY) browser
	$(BIN)/python $(PYTEST) -n 3 --dist worksteal -m slow tests/browser \
	  $$(grep -rlw --include='test_*.py' --exclude-dir=browser slow tests) $(ARGS)

# Unit tests and doctests under coverage, with the floor that pyproject.toml sets (fail_under). Python 3.12 and newer count
# lines through sys.monitoring, which costs next to nothing.
coverage: export COVERAGE_CORE = $(shell $(PYTHON) -c "import sys; print('sysmon' if sys.version_info >= (3, 12) else 'ctrace')")
coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term tests/unit gradwatch $(ARGS)

# Tests that other projects ship, with and without the recording. It downloads their source distributions.
peers: $(READY)
	$(BIN)/python -m pytest -s -rs -m peers tests/peers $(ARGS)

# Reading, reports, the command line, TensorBoard and a short training with the oldest versions that pyproject.toml allows;
# torch is the newest. Tests of arithmetic and of SQLite are left out: they hold many cases of code that other tests here
# run with these versions as well. So are those of several processes, which depend on torch alone.
test-lowest: ONCE := analysis/recommend/test_rule.py analysis/recommend/test_wording.py analysis/recommend/test_changes.py \
  analysis/recommend/test_aggregate.py analysis/diagnosis/test_agreement.py analysis/diagnosis/test_growth.py \
  store/test_strangers.py store/test_hostile.py store/test_damage.py store/test_compacting.py store/test_digests.py
test-lowest: LOWEST := .venv-lowest/$(notdir $(BIN))/python
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST) $(PIP_INSTALL) torch -c constraints.txt
	$(LOWEST) $(PIP_INSTALL) -e '.[parquet,capture]' hatchling hatch-fancy-pypi-readme hypothesis pillow \
	  pytest pytest-xdist scikit-learn scipy -c constraints-lowest.txt
	$(LOWEST) $(PYTEST) -n 3 --dist worksteal -m "not slow and not peers" tests/contracts/test_floors.py tests/unit/analysis tests/unit/cli \
	  tests/unit/export tests/unit/plugins tests/unit/sinks tests/unit/sources tests/unit/store tests/unit/views \
	  $(ONCE:%=--ignore=tests/unit/%)

# Trackers with the packages themselves. MLflow and trackio need older versions of some packages than those that
# constraints.txt has, so they have an environment of their own.
trackers: TRACKERS := .venv-trackers/$(notdir $(BIN))/python
trackers:
	$(PYTHON) -m venv .venv-trackers
	grep -vE '^(importlib_metadata|pillow)==' constraints.txt > .venv-trackers/constraints.txt
	cat constraints-trackers.txt >> .venv-trackers/constraints.txt
	$(TRACKERS) $(PIP_INSTALL) torch -c .venv-trackers/constraints.txt
	$(TRACKERS) $(PIP_INSTALL) -e '.[wandb,mlflow,trackio,notify,parquet]' alembic hypothesis pytest pytest-xdist -c .venv-trackers/constraints.txt
	$(TRACKERS) -c "import alembic, mlflow, trackio, wandb"
	$(TRACKERS) -m pytest -rs tests/unit/sinks tests/unit/sources/test_tracker_stores.py tests/unit/sources/test_wandb_file.py $(ARGS)

# A recording in the kernel of a notebook, which the other targets leave out: they install no kernel.
notebook: $(READY)
	$(BIN)/python $(PIP_INSTALL) ipykernel jupyter_client -c constraints.txt
	$(BIN)/python -m pytest -rs -m slow tests/end_to_end/test_notebook.py $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks/diagnosis $(BIN)/mypy benchmarks/diagnosis/*.py
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory javascript; \
	else echo "Node.js is not installed: dashboards/ is not linted, type-checked or unit-tested."; fi

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
	$(BIN)/python benchmarks/store_fuzz.py | tee benchmarks/store_fuzz.txt
	$(BIN)/python benchmarks/long_run.py | tee benchmarks/long_run.txt
	$(BIN)/torchrun --nproc-per-node 4 benchmarks/ranks.py | tee benchmarks/ranks.txt

# Where a GPU is: the tests that need one, and every figure that only it can give.
gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --to benchmarks/gpu.txt

dashboard: $(READY) browser
	$(BIN)/python benchmarks/dashboard.py | tee benchmarks/dashboard.txt

detection: $(READY)
	$(BIN)/python benchmarks/detection/corpus.py
	$(BIN)/python benchmarks/detection/evaluate.py > benchmarks/detection/RESULTS.md

# The public histories are other people's files and not kept here: HISTORIES=FOLDER has those that are at hand.
diagnosis: HISTORIES ?= benchmarks/diagnosis/.histories
diagnosis: $(READY)
	$(BIN)/python benchmarks/diagnosis/evaluate.py tuning
	$(BIN)/python benchmarks/diagnosis/evaluate.py held_out
	$(BIN)/python benchmarks/diagnosis/histories.py $(HISTORIES)

recommendation: $(READY)
	$(BIN)/python benchmarks/recommendation/regret.py train
	$(BIN)/python benchmarks/recommendation/regret.py report > benchmarks/recommendation/RESULTS.md
	$(BIN)/python benchmarks/recommendation/limit.py > benchmarks/recommendation/limit.txt

temporal-order: $(READY)
	$(BIN)/python benchmarks/temporal_order/experiment.py > benchmarks/temporal_order/RESULTS.md

pictures: $(READY) browser
	$(BIN)/python docs/pictures/make.py

# The documentation as a site in build/site. Broken links, and pages that the navigation forgets, fail it.
docs: $(READY)
	$(BIN)/python $(PIP_INSTALL) -e '.[docs]' -c $(VENV)/constraints.txt
	$(BIN)/python -m mkdocs build --strict --site-dir build/site

clean:
	rm -rf $(VENV) $(NODE) .venv-lowest .venv-trackers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Chromium for tests/browser. Without it those tests are skipped and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	     && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	|| echo "Chromium is not installed: the tests in tests/browser are skipped."

# torch first and alone: where the index offers a build without CUDA, the constraint selects it, and everything else that
# needs torch is then content with it. Another TORCH brings its own triton.
$(READY): pyproject.toml constraints.txt Makefile hatch_build.py gradwatch/measure/fused.c
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradwatch needs Python 3.11 or newer; make PYTHON=python3.12 takes another")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),grep -vE '^(torch|triton)==' constraints.txt > $(VENV)/constraints.txt,cp constraints.txt $(VENV)/constraints.txt)
	$(BIN)/python $(PIP_INSTALL) torch$(if $(TORCH),==$(TORCH)) -c $(VENV)/constraints.txt
	$(BIN)/python $(PIP_INSTALL) -e '.[dev]' -c $(VENV)/constraints.txt
	touch $(READY)

$(NODE)/.ready: package.json package-lock.json
	npm ci --silent --no-audit --no-fund
	touch $@
