#!/usr/bin/env bash
# make demo and make test in a container: docker.sh demo|test
# Needs Docker. PORT, VIEWER_PORT, ONCE, CORALOGIX_DOMAIN and CORALOGIX_PRIVATE_KEY as for make demo.
# BUILD_OPTIONS and RUN_OPTIONS are added to docker build and docker run.
set -euo pipefail

main() {
  cd "$(dirname "$0")/../.."
  command -v docker > /dev/null || fail "Docker is not installed; see https://docs.docker.com/get-docker/"
  docker version > /dev/null 2>&1 || fail "the Docker engine does not respond; is it started, and may you use it?"
  case "${1:-}" in
    demo) demo ;;
    test) run_tests ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" >&2 && exit 2 ;;
  esac
}

demo() {
  local port=${PORT:-8000} viewer_port=${VIEWER_PORT:-8003} terminal=()
  if in_use "$port"; then
    fail "port $port (api) is in use: stop what listens there, or choose another: PORT=8080 make demo DOCKER=1"
  fi
  while in_use "$viewer_port"; do viewer_port=$((viewer_port + 1)); done
  build demo
  if [[ -t 0 && -t 1 ]]; then terminal=(--tty --interactive); fi
  # shellcheck disable=SC2086 # options are words
  exec docker run --rm --init --name cal-onboarding-demo ${terminal[@]+"${terminal[@]}"} \
    --publish "127.0.0.1:$port:$port" --publish "127.0.0.1:$viewer_port:$viewer_port" \
    --env "PORT=$port" --env "VIEWER_PORT=$viewer_port" --env CORALOGIX_DOMAIN --env CORALOGIX_PRIVATE_KEY \
    ${RUN_OPTIONS:-} cal-onboarding-demo:local ${ONCE:+--once}
}

run_tests() {
  build test
  # shellcheck disable=SC2086
  exec docker run --rm --init --volume "$PWD:/checkout:ro" ${RUN_OPTIONS:-} cal-onboarding-test:local
}

build() { # target
  local out=/dev/stdout
  if docker image inspect "cal-onboarding-$1:local" > /dev/null 2>&1; then
    out=/dev/null # little is left to do
  else
    echo "Building the images, once ..."
  fi
  # shellcheck disable=SC2086
  if ! docker build ${BUILD_OPTIONS:-} --tag cal-otel-collector:local --file otel/Dockerfile . > "$out" ||
    ! docker build ${BUILD_OPTIONS:-} --tag "cal-onboarding-$1:local" --target "$1" --file infrastructure/local/Dockerfile . > "$out"; then
    fail "the image could not be built; the lines above say why"
  fi
}

in_use() { # port
  (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}

fail() {
  echo "$1" >&2
  exit 1
}

main "$@"
