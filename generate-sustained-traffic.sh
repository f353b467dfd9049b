#!/usr/bin/env bash
# Sends one POST /telemetry/smoke every INTERVAL seconds for DURATION seconds and counts the responses.
#
# Usage: generate-sustained-traffic.sh HOST [DURATION] [INTERVAL] [FAIL_EVERY]
#   HOST        IP address, name or host:port of the API (port 8000 unless given)
#   DURATION    whole seconds, 600 unless given
#   INTERVAL    seconds between requests, 1 unless given; fractions such as 0.2 are fine
#   FAIL_EVERY  asks the Lambda to fail on every FAIL_EVERY-th record; 0, never, unless given
# Exits 0 when at least one request was accepted (202), 1 when none was, 2 when called wrongly. Ctrl-C ends it early.
set -euo pipefail

sent=0 accepted=0 failed=0 last_error="" stopped=""

main() {
  [[ $# -ge 1 && $# -le 4 && -n $1 && $1 != -* ]] || usage
  local host=$1 duration=${2:-600} interval=${3:-1} fail_every=${4:-0}
  [[ $duration =~ ^[0-9]+$ && $interval =~ ^[0-9]+(\.[0-9]+)?$ && $fail_every =~ ^[0-9]+$ ]] || usage
  [[ $host == *:* ]] || host=$host:8000
  trap 'stopped=yes' INT TERM
  local start=$SECONDS
  while [[ -z $stopped ]] && ((SECONDS - start < duration)); do
    send "http://$host/telemetry/smoke" "$fail_every"
    progress
    [[ -n $stopped ]] || sleep "$interval" || true
  done
  summary
  ((accepted > 0))
}

usage() {
  sed -n '2,/^set/{s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}

send() { # url, fail_every
  local response status body='"customer_id":"TRAFFIC-'$((sent + 1))'"'
  ((${2} == 0 || (sent + 1) % ${2} != 0)) || body+=',"simulate":"failure"'
  response=$(curl --silent --show-error --max-time 15 --write-out '\n%{http_code}' --header 'Content-Type: application/json' \
    --data "{$body}" "$1" 2>&1) || true
  [[ -z $stopped ]] || return 0 # Ctrl-C ended curl as well
  sent=$((sent + 1))
  status=${response##*$'\n'}
  if [[ $status == 202 ]]; then
    accepted=$((accepted + 1))
  else
    failed=$((failed + 1))
    last_error=$(head -n 1 <<< "$response")
  fi
}

progress() {
  [[ ! -t 1 ]] || printf '\rsent %d, accepted %d, failed %d ' "$sent" "$accepted" "$failed"
}

summary() {
  [[ ! -t 1 ]] || printf '\r'
  echo "sent $sent, accepted $accepted, failed $failed${last_error:+; last error: $last_error}"
}

main "$@"
