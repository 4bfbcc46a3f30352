# Every target is one line; `make` alone lists them.
PYTHON ?= .venv/bin/python

help: ; @grep -E '^[a-z-]+:' Makefile | cut -d: -f1
test: ; python3 vs3r.py test
check: test lint
lint: ; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy && $(dir $(PYTHON))lint-imports
bench: ; $(PYTHON) -m vs3r_engine.evaluation.bench $(CLIPS)
bench-fill: ; $(PYTHON) -m vs3r_engine.evaluation.bench_fill $(CLIPS)
bench-service: ; $(PYTHON) -m vs3r_engine.service.bench
bench-gpu: ; $(PYTHON) -m vs3r_engine.evaluation.bench_gpu $(PARTS)
generated: ; $(PYTHON) plugin/openfx/generate.py
sanitize: ; for kind in address thread undefined; do $(PYTHON) -m tests.plugin.sanitized $$kind || exit 1; done
resilience: ; $(PYTHON) -m pytest -m slow -s tests/bridge/test_real_engine.py tests/bridge/test_launcher.py tests/engine/test_service_security.py
.PHONY: generated sanitize resilience help test check lint bench bench-fill bench-service bench-gpu
