# Two commands do all: `make serve` and `make test`. Everything they need is installed into folders beside this file.

PYTHON ?= python3
PORT ?= 8000
# MODEL=photos is the bundle that answers by default, where models/ holds several.
MODEL ?=
# GPU=1 installs onnxruntime-gpu with its CUDA libraries instead of onnxruntime.
ifdef GPU
SERVICE := service-gpu
else
SERVICE := service
endif
PIP := bin/python -m pip --disable-pip-version-check --no-input
SERVE := .venv
DEV := .venv-dev

# What the tests of deploy/ and of the page ask. In Debian these are the packages nginx-light, prometheus (promtool too), kubernetes-client,
# chromium and chromium-driver.
TOOLS := nginx prometheus promtool kubectl chromium chromedriver

.PHONY: serve test dev tools lint types imports reproduce requirements clean

serve: $(SERVE)/.$(SERVICE)
	$(SERVE)/bin/oodgate serve --port $(PORT)$(if $(MODEL), --model $(MODEL))

# The service alone: no torch.
$(SERVE)/.$(SERVICE): requirements/$(SERVICE).txt pyproject.toml
	rm -rf $(SERVE)
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/$(PIP) install --quiet --require-hashes --requirement requirements/$(SERVICE).txt
	$(SERVE)/$(PIP) install --quiet --no-deps --editable .
	touch $@

# Training, tests and tools: torch among them, about 3 GB to fetch.
dev: $(DEV)/.dev

$(DEV)/.dev: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/$(PIP) install --quiet --require-hashes --requirement requirements/dev.txt
	$(DEV)/$(PIP) install --quiet --no-deps --editable .
	touch $@

# Installs only what is missing, and only as root on Debian; elsewhere it says what to install.
tools:
	@missing=; for tool in $(TOOLS); do command -v $$tool > /dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then echo "make tools: not installed:$$missing" >&2; exit 1; fi; \
	    packages=$$(for tool in $$missing; do case $$tool in nginx) echo nginx-light;; kubectl) echo kubernetes-client;; chromium) echo chromium;; \
	        chromedriver) echo chromium-driver;; *) echo prometheus;; esac; done | sort -u); \
	    apt-get update --quiet --quiet && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --yes --quiet --quiet --no-install-recommends $$packages; \
	fi

test: lint types imports tools
	$(DEV)/bin/python -m pytest

lint: dev
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: dev
	$(DEV)/bin/mypy

imports: dev
	$(DEV)/bin/lint-imports

# The paper's CIFAR-10 comparison, at its full size unless ARGUMENTS says otherwise; goes on where it was stopped.
reproduce: dev
	$(DEV)/bin/python -m benchmarks.reproduce $(ARGUMENTS)

# Pins the newest releases that pyproject.toml allows, for every Python and platform at once.
requirements: dev
	set -e; for target in "service --extra cpu --extra otel" "service-gpu --extra gpu --extra otel" \
	    "training --extra cpu --extra training" "dev --extra cpu --extra training --extra dev"; do set -- $$target; name=$$1; shift; \
	    $(DEV)/bin/uv pip compile pyproject.toml "$$@" --universal --python-version 3.11 --generate-hashes --no-annotate \
	        --no-header --upgrade --quiet --output-file requirements/$$name.txt; done

clean:
	rm -rf $(SERVE) $(DEV)
