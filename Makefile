# Every target is one line; `make` alone lists them.
PYTHON ?= .venv/bin/python

help: ; @grep -E '^[a-z-]+:' Makefile | cut -d: -f1
test: ; python3 vs3r.py test
check: test lint
lint: ; $(PYTHON) -m ruff check . && $(PYTHON) -m mypy && .venv/bin/lint-imports
bench: ; $(PYTHON) -m vs3r_engine.evaluation.bench $(CLIPS)
bench-service: ; $(PYTHON) -m vs3r_engine.service.bench
.PHONY: help test check lint bench bench-service
