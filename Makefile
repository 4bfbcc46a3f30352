# Every target is one line; `make` alone lists them.
PYTHON ?= .venv/bin/python

help: ; @grep -E '^[a-z-]+:' Makefile | cut -d: -f1
test: ; python3 vs3r.py test
check: test lint
lint: ; $(PYTHON) -m ruff check . && $(PYTHON) -m mypy && .venv/bin/lint-imports
bench: ; $(PYTHON) -m vs3r_engine.evaluation.bench $(CLIPS)
bench-service: ; $(PYTHON) -m vs3r_engine.service.bench
bench-gpu: ; $(PYTHON) -m vs3r_engine.methods.vggt4d.bench && $(PYTHON) -m vs3r_engine.evaluation.bench_gpu_diffusion
.PHONY: help test check lint bench bench-service bench-gpu
