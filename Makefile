# Everything runs in .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/.demo
	$(BIN)/holdshort demo

test: .venv/.test
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/.bench
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/broker.py
	$(BIN)/python benchmarks/yield_latency.py
	$(BIN)/python benchmarks/thrash.py
	$(BIN)/python benchmarks/gateway.py
	$(BIN)/python benchmarks/lane.py
	$(BIN)/python benchmarks/storage.py

.venv/.demo .venv/.test .venv/.dev .venv/.bench: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[$(patsubst .venv/.%,%,$@)]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
