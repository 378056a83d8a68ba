#!/usr/bin/env bash
# Installs what the package.json of a directory asks for, unless it is there: others may be using it.
#
#   modules.sh DIRECTORY
set -euo pipefail

cd "$1"
npm ls --all >/dev/null 2>&1 || npm ci --no-audit --no-fund --loglevel=error
