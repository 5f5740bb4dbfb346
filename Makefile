# make demo   set up, make labels for 24 scenes, print the table, write a report page
# make test   set up, run the tests                make lint   set up, run the linters
# make bench  set up, time ours against the plain ways
# make setup  the environment alone (.venv)        make clean  remove .venv and the caches
# Another interpreter: make setup PYTHON=python3.11

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
EXTRAS := .[detectron2,dev]
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))

# A PYTHON that the user names is the only one tried.
ifeq ($(origin PYTHON),file)
CANDIDATES := $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3.10
else
CANDIDATES := $(PYTHON)
endif

.PHONY: demo test lint bench setup clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(BIN)/python tools/demo.py

# One thread a worker: two workers fill two cores, and results do not depend on the machine.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python tools/benchmarks/benchmark.py $(ARGS)

setup: $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# uv is much faster than pip, but does not read pip's configuration: it is told of pip's
# index, and where it still fails (proxies, certificates) pip itself tries.
$(STAMP): setup.py constraints.txt tools/install_detectron2.py
	@found=""; for python in $(CANDIDATES); do \
		if $$python -c "$(SUPPORTED)" >/dev/null 2>&1; then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.10 to 3.14 among: $(CANDIDATES)." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13" >&2; \
		exit 1; fi; \
	if ! $(BIN)/python -c "$(SUPPORTED)" >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$found ($$($$found --version))"; \
		rm -rf $(VENV); \
		$$found -m venv $(VENV) || { rm -rf $(VENV); \
			echo "Python's venv module is missing: on Debian, apt install python3-venv" >&2; \
			exit 1; }; fi
	@echo "Installing the dependencies (the first time: about 3 GB to fetch, 6 GB on disk)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get \
		global.index-url 2>/dev/null)}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt \
		-e "$(EXTRAS)" \
	|| { echo "uv could not install them; trying pip" >&2; \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e "$(EXTRAS)"; }
	@$(BIN)/python tools/install_detectron2.py
	@touch $@
