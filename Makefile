# make demo                            teach the embedded base a sample subject and look at it (minutes, no GPU)
# make demo IMAGES=photos NOUN=dog     the same with photos of your own
# make app                             the app, on http://127.0.0.1:7860
# make test                            every fast test;  make test-all: the slow ones too
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Two workers of one thread each: the models in the tests are too small to feed more threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

.PHONY: demo app test test-all lint clean

demo: $(READY)
	$(BIN)/symdream demo $(if $(IMAGES),--images "$(IMAGES)") $(if $(NOUN),--class-noun "$(NOUN)") $(ARGS)

app: $(READY)
	$(BIN)/symdream app $(ARGS)

test: $(READY)
	@echo "running the fast tests"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || echo "no chromium here: the browser tests are skipped (Debian: apt-get install chromium)"
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY)
	@echo "running all tests"
	$(PYTEST) $(ARGS)

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

$(READY): pyproject.toml
	@echo "setting up $(VENV): this takes some minutes the first time"
	@$(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    $(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) is no Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }; \
	    $(PYTHON) -m venv --clear $(VENV); }
	@# Without pip: the venv of another tool, or one that was begun before there was an ensurepip (Debian: python3-venv).
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[app,bench,test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
