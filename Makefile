# Everything the two commands need is installed by these rules, once, into .venv/ and .tools/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:

export PYTHON ?= python3
ARCH ?= amd64
# DOCKER=1 runs demo and test in a container; anything but Linux has no other way. macOS's make, 3.81, knows no .ONESHELL.
DOCKER ?= $(filter-out Linux,$(shell uname -s))
# OTELCOL=/path/to/otelcol saves building the Collector.
define install
command -v $(PYTHON) > /dev/null || { echo "Python 3.11 or newer is needed, or Docker: make $@ DOCKER=1" >&2; exit 1; }
$(PYTHON) -S infrastructure/local/install.py $(1)
endef

.PHONY: help demo test drills bench picture images lint lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## run the whole path and show the trace; ONCE=1: one request, then exit; DOCKER=1: in a container
ifneq ($(DOCKER),)
	@exec infrastructure/local/docker.sh demo
else
	@$(call install,demo)
	exec .venv/bin/python infrastructure/local/demo.py $(if $(ONCE),--once)
endif

test: ## prove it; DOCKER=1: in a container
ifneq ($(DOCKER),)
	@exec infrastructure/local/docker.sh test
else
	@$(call install,test)
	exec .venv/bin/python -m pytest -n auto
endif

drills: ## break it in every way we know, and count; then whatever else takes long
	@$(call install,test)
	.venv/bin/python -m pytest tests/faults -m ""
	.venv/bin/python -m pytest -n auto -m slow --ignore tests/faults || [[ $$? == 5 ]] # 5: nothing else is slow

bench: ## measure what it costs beside what people would pick instead, 15 minutes; QUICK=1: 5
	@$(call install,test)
	exec .venv/bin/python tests/bench/bench.py $(if $(QUICK),--quick)

picture: ## draw the front page's picture of the terminal, from a demo that runs
	@$(call install,test)
	exec .venv/bin/python infrastructure/local/picture.py

images: ## build the three images with Docker for ARCH (amd64 or arm64)
	@for image in cal-onboarding-api:onboarding-api cal-onboarding-lambda:onboarding-lambda cal-otel-collector:otel; do
	  docker build --platform linux/$(ARCH) $(BUILD_OPTIONS) -t $${image%:*}:local -f $${image#*:}/Dockerfile .
	done

lint: ## check style, types, images and workflows
	@$(call install,lint)
	.venv/bin/ruff check . tests/deployment/shims/{aws,curl}
	.venv/bin/ruff format --check .
	.venv/bin/mypy infrastructure/local
	.venv/bin/mypy --strict onboarding-api
	.venv/bin/mypy --strict onboarding-lambda
	.venv/bin/shellcheck $$(git ls-files '*.sh' .ci/run) tests/deployment/shims/{docker,sleep}
	.venv/bin/cfn-lint infrastructure/foundation.yaml
	.venv/bin/hadolint $$(git ls-files '*Dockerfile')
	.tools/actionlint -shellcheck .venv/bin/shellcheck -pyflakes=

lock: .venv/installed ## resolve the dependencies anew
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --group dev --output-file requirements.lock pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --group demo --constraints requirements.lock --output-file infrastructure/local/requirements.txt pyproject.toml
	for part in api lambda; do
	  .venv/bin/uv pip compile --quiet --python-platform linux --python-version 3.13 --generate-hashes --no-header --no-annotate \
	    --group $$part --constraints requirements.lock --output-file onboarding-$$part/requirements.txt pyproject.toml
	done

clean: ## remove what was built
	@rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: requirements.lock
	@$(call install,python)
