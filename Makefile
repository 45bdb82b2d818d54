# Everything starts here: `make serve` and `make test` set up what they need on a machine with Python and a C++ compiler.

PYTHON   ?= python3
VENV     ?= .venv
FLEET    ?= .venv-fleet
PIP_ARGS ?=
MODEL    ?=
ARGS     ?=
LOCK     ?= deploy/requirements.lock
INDEX    ?=
BASE     ?=
SBOM     ?= sbom.json

BIN := $(VENV)/bin
# Python keeps the modules that it has compiled, also where the environment says otherwise: each process would compile torch
# and all that it imports again, for two seconds. pip would compile what nobody imports, too, for most of a minute.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python deploy/pip_with_progress.py --disable-pip-version-check --no-compile $(PIP_ARGS)
UV_LOCK = $(BIN)/uv pip compile --quiet --no-header --no-annotate --universal --generate-hashes --python-version 3.11 --extra otel \
	--constraint $(VENV)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast test-integrations test-long test-fleet test-image soak fuzz lint kernels format docs site lock sbom clean

help: ## Show this text
	@echo 'usage: make TARGET [MODEL=...] [ARGS="--port 9000 ..."] [PYTHON=python3.12] [PIP_ARGS=...]'
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

serve: $(VENV)/.installed ## Serve MODEL (default: the demo model) with the options in ARGS
	@$(BIN)/headrace serve $(if $(MODEL),'$(MODEL)') $(ARGS)

test: ## Lint, check types and run every test (the end-to-end tests take the demo model)
	@$(MAKE) --no-print-directory --jobs=2 lint kernels
	$(BIN)/python -m pytest -m "not long and not integrations and not image" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.installed-test ## Run the tests of pure logic, without torch, in a minute or two
	$(BIN)/python -m pytest -m fast --numprocesses auto --dist loadfile --no-loadscope-reorder

test-integrations: $(VENV)/.installed-test ## Run agents and front ends against the server; installs them (npm, pip)
	$(BIN)/python -m pytest -m integrations tests/integrations

test-long: $(VENV)/.installed-test ## Run tests of minutes: a context of 131,072 tokens, each kind of layer over HTTP
	$(BIN)/python -m pytest -m long

# Needs Linux, two cores, 4 GB of memory and the ports 8190, 8191 and 31000 to 31999. Ray Serve goes to an environment of its own.
test-fleet: $(FLEET)/.installed ## Kill replicas and engines of a fleet; installs Ray Serve (500 MB; 2 minutes, and as much to install)
	$(FLEET)/bin/python -m pytest tests/fleet

# Needs Linux, root, 6 GB of disk in ~/.cache/headrace/image, and Debian's buildah, podman, runc and nftables; 8 minutes. The base
# comes from Docker's registry, or is the root file system in the folder BASE (docs/installation.md makes one); torch is
# PyTorch's, or a build for CPUs that pip finds here.
test-image: $(VENV)/.installed-test ## Build the image and serve it; downloads its base (or takes the folder BASE) and torch
	BASE='$(BASE)' $(BIN)/python -m pytest tests/image -s

soak: $(VENV)/.installed-test ## Load a real server with faults and kills (ARGS="--minutes 60"; default 3) and look for leaks
	$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(VENV)/.installed-test ## Send 10,000 mutated bodies, and mutate what all readers read; ARGS="--seconds 600"
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(VENV)/.installed-test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kernels: $(BIN)/pip ## Compile the CPU kernels that the tests run, beside what else `make test` sets up
	@$(BIN)/python -m tests.helpers.kernel_levels

format: $(VENV)/.installed-test ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-test ## Write the documents' tables (options, metrics, models) and the dashboard
	$(BIN)/python -m tests.helpers.docs_tables

site: $(VENV)/.installed-test ## Build the documents as a site in build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

# Without triton's version: torch asks for its own. uv takes torch alone from PyTorch's index, which has old versions of other
# packages too; from another INDEX it takes all that is there.
lock: $(VENV)/.installed-test $(BIN)/uv ## Write the image's locks of the versions installed here; INDEX: of torch for CPUs
	$(BIN)/python -m pip freeze --exclude-editable | sed -n '/^triton==/d; s/^\([^ ]*==[^ +]*\).*/\1/p' > $(VENV)/constraints.txt
	@echo '# What the image installs, each file by its hash: the CPU variant. Made by `make lock`.' > $(VENV)/cpu.lock
	@echo '--extra-index-url $(or $(INDEX),https://download.pytorch.org/whl/cpu)' >> $(VENV)/cpu.lock
	@echo '# What the image installs, each file by its hash: the variant for NVIDIA GPUs. Made by `make lock`.' > $(VENV)/cuda.lock
	$(UV_LOCK) $(if $(INDEX),--extra-index-url '$(INDEX)',--torch-backend cpu) pyproject.toml >> $(VENV)/cpu.lock
	$(UV_LOCK) --extra gpu pyproject.toml >> $(VENV)/cuda.lock
	mv $(VENV)/cpu.lock deploy/requirements.lock
	mv $(VENV)/cuda.lock deploy/requirements-cuda.lock

sbom: $(BIN)/cyclonedx-py ## Write a bill of materials of what LOCK installs, in CycloneDX's form, to SBOM
	$(BIN)/cyclonedx-py requirements $(LOCK) --pyproject pyproject.toml --output-format JSON --output-file $(SBOM)

clean: ## Remove the virtual environment, caches and build results
	rm -rf $(VENV) $(FLEET) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find server engine models tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps hold when an installation is complete: one that was interrupted, or older than pyproject.toml, is done again.
$(VENV)/.installed: pyproject.toml $(BIN)/pip
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(BIN)/pip
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(FLEET)/.installed: pyproject.toml
	'$(PYTHON)' -m venv $(FLEET)
	$(FLEET)/bin/python -m pip install --no-compile $(PIP_ARGS) --editable '.[ray]' 'pytest>=8.3' 'pytest-asyncio>=0.26' hypothesis
	@touch $@

$(BIN)/uv: $(BIN)/pip
	$(PIP) 'uv>=0.9'

$(BIN)/cyclonedx-py: $(BIN)/pip
	$(PIP) 'cyclonedx-bom>=7,<8'

$(BIN)/pip:
	@command -v '$(PYTHON)' >/dev/null || \
		{ echo 'There is no $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headrace needs Python 3.11 or newer and $(PYTHON) is $$('$(PYTHON)' -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo '$(PYTHON) has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
