#!/bin/sh
# Runs the given command in place of this shell, so that it gets the container's signals. An option alone is sc-dask's.
set -eu
case "${1:-}" in
    "" | -*) set -- sc-dask "$@" ;;
esac
exec "$@"
