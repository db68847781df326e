# Each target sets up what it needs in .venv; the README shows what they expand to.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/digits

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/jaxdiff train digits --run-dir $(RUN)

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/demo .venv/test .venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[$(@F)]" -c constraints.txt
	touch $@

clean:
	rm -rf .venv
