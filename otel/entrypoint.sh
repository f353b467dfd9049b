#!/bin/sh
# Starts the Collector, or says which variable is missing: by itself the Collector would only warn, and send to nowhere.
set -eu
: "${CORALOGIX_DOMAIN:?is missing: the domain of your Coralogix region, such as us2.coralogix.com}"
: "${CORALOGIX_PRIVATE_KEY:?is missing: your Coralogix Send-Your-Data key}"
exec otelcol "$@"
