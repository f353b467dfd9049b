#!/usr/bin/env bash
# Records its arguments in $CALLS.
echo "traffic $*" >> "$CALLS"
