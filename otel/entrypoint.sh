#!/bin/sh
# Starts the Collector, or names the variable that is wrong: the Collector alone would be healthy, and send to nowhere.
set -eu
trimmed() { # prints a value without the white space around it: a secret often ends in a newline
  value=${1#"${1%%[![:space:]]*}"}
  printf '%s' "${value%"${value##*[![:space:]]}"}"
}
stop() {
  echo "$1" >&2
  exit 1
}
CORALOGIX_DOMAIN=$(trimmed "${CORALOGIX_DOMAIN-}")
CORALOGIX_PRIVATE_KEY=$(trimmed "${CORALOGIX_PRIVATE_KEY-}")
: "${CORALOGIX_DOMAIN:?is missing: the domain of your Coralogix region, such as us2.coralogix.com}"
: "${CORALOGIX_PRIVATE_KEY:?is missing: your Coralogix Send-Your-Data key}"
case ".$CORALOGIX_DOMAIN." in
  *[!A-Za-z0-9.-]* | .ingress.* | *..*) stop "CORALOGIX_DOMAIN: is not a domain alone, such as us2.coralogix.com" ;;
esac
case $CORALOGIX_PRIVATE_KEY in *[!A-Za-z0-9._+/=-]*) stop "CORALOGIX_PRIVATE_KEY: has a character that no key has" ;; esac
exec otelcol "$@"
