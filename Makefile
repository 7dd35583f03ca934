# `make run` starts a server, `make test` checks everything, `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Said on the command line or in the environment, these hold for this run; at the first run they also go into
# the configuration. All other options: WEFT_… variables, see docs/reference/configuration.md.
ifdef DEV
DATA_DIR ?= data/dev
else
DATA_DIR ?= data
endif
SERVER_NAME ?= localhost
PORT ?= 8008
ifneq ($(origin PORT),file)
export WEFT_LISTEN ?= 127.0.0.1:$(PORT)
export WEFT_PUBLIC_URL ?= http://localhost:$(PORT)
# The configuration may name another port.
AT_PORT := --url http://localhost:$(PORT)
endif
ifneq ($(origin SERVER_NAME),file)
export WEFT_SERVER_NAME ?= $(SERVER_NAME)
endif

CONFIG := $(DATA_DIR)/weft.yaml

.DEFAULT_GOAL := help
.PHONY: help run install test coverage lint format bench reference lock

help:
	@echo "make run          start a server at http://localhost:$(PORT), data in ./$(DATA_DIR)"
	@echo "                  PORT=9000 DATA_DIR=/srv/weft SERVER_NAME=example.org; DEV=1 lets anyone register"
	@echo "make install      only put what the server needs into ./$(VENV)"
	@echo "make test         lint, then all tests; ARGS=\"-k sync\" picks some"
	@echo "make coverage     all tests, and which lines they do not reach (takes twice as long)"
	@echo "make lint         style, types, and who imports whom"
	@echo "make format       put the code into the common format"
	@echo "make bench        measure; ARGS=\"--quick\" for a short run"
	@echo "make reference    write the configuration reference and schema anew"
	@echo "make lock         resolve the locked dependencies anew"

# --- Running ---

run: $(VENV)/.runtime
ifdef DEV
	@export WEFT_DATA_DIR="$${WEFT_DATA_DIR:-$(DATA_DIR)}"; \
	url=$$($(BIN)/weft check-config --dev | sed -n 's/^public_url: //p'); test -n "$$url" || exit 2; \
	printf '%s\n' "" "Weft in development mode: $$url (Ctrl-C stops it)" \
	  "Anyone on this machine can register. In a Matrix client choose the homeserver $$url" \
	  "and create an account." ""; \
	exec $(BIN)/weft serve --dev
else
	@test -e "$(CONFIG)" || { echo "Writing $(CONFIG)"; \
	  $(BIN)/weft generate-config --server-name "$(SERVER_NAME)" --public-url "http://localhost:$(PORT)" \
	    --listen "127.0.0.1:$(PORT)" --data-dir "$(DATA_DIR)" -o "$(CONFIG)"; }
	@url=$$($(BIN)/weft check-config -c "$(CONFIG)" | sed -n 's/^public_url: //p'); test -n "$$url" || exit 2; \
	printf '%s\n' "" "Weft: $$url (Ctrl-C stops it)" \
	  "1. Create the first administrator, in a second terminal:" \
	  "     $(strip $(BIN)/weft register-user -c $(CONFIG) $(AT_PORT) --admin alice)" \
	  "2. In a Matrix client choose the homeserver $$url and log in." \
	  "More: docs/getting-started.md. To let anyone on this machine register: make run DEV=1" ""; \
	exec $(BIN)/weft serve -c "$(CONFIG)"
endif

# --- Installing ---

install: $(VENV)/.runtime

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "Weft needs Python 3.11 or newer, and there is no $(PYTHON) here. Install it and try again." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Weft needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V)." \
	    "Name another one: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) lacks the venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making a Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL_WEFT := $(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Weft needs ($$(grep -c == requirements.lock) packages; once, usually under a minute)"
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(INSTALL_WEFT)
	@touch $@

$(VENV)/.development: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing what development needs ($$(grep -c == requirements-dev.lock) packages; once per change)"
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@$(INSTALL_WEFT)
	@touch $@ $(VENV)/.runtime

JS_CLIENT := tests/clients/js

$(JS_CLIENT)/node_modules/.installed: $(JS_CLIENT)/package-lock.json
	@command -v npm >/dev/null || \
	  { echo "The tests with a JavaScript client need Node.js 20 or newer with npm. Install it." >&2; exit 1; }
	@echo "Installing the JavaScript client that tests use"
	@cd $(JS_CLIENT) && npm ci --silent --no-audit --no-fund
	@touch $@

# --- Checking ---

# By file: what is started for the tests of a module is started once. In order: the long ones come first.
# Some wait more than they work: a process more than there are cores keeps those busy.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
IN_PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint $(JS_CLIENT)/node_modules/.installed
	@$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

coverage: $(VENV)/.development $(JS_CLIENT)/node_modules/.installed
	@$(BIN)/python -m pytest $(IN_PARALLEL) --cov $(ARGS)

lint: $(VENV)/.development
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.development
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.development
	@$(BIN)/python -m bench $(ARGS)

# --- What is generated ---

reference: $(VENV)/.runtime
	@$(BIN)/python -m homeserver.config.documents

PIP_COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe \
  --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
  --annotation-style=line --build-deps-for=editable --extra mongo --extra kafka

lock: $(VENV)/.development
	@$(PIP_COMPILE) --output-file requirements.lock pyproject.toml
	@$(PIP_COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
