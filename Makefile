# `make repro` runs the pipeline (up to TARGET), `make test` all tests, `make docs` writes what docs take from figures and
# scripts; all set up .venv first.
KNOWN := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
TARGET :=
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(KNOWN)' 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: install repro test quick torture lint docs

repro: install
	python -m stages.mend
	dvc repro $(TARGET)

test: install
	pytest -n 4 --dist loadfile --no-loadscope-reorder

quick: install
	pytest -m "not slow"

torture: install
	python tests/support/torture.py --kills 50
	python tests/support/mutations.py --cases 1000

docs: install
	python -m stages.picture --out docs/curves.svg --overwrite
	python tests/support/stage_help.py

lint: install
	ruff check .
	ruff format --check .

install: .venv/installed

.venv/installed: requirements.txt $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(KNOWN)' || { echo "error: Python 3.11, 3.12 or 3.13 is needed \
	(found: $(or $(PYTHON),none of them)); install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.txt
	@touch $@
