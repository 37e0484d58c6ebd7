#!/bin/sh
# Builds and runs the benchmark of documents; needs Node and npm. Its options: see src/main.rs.
set -eu
cd "$(dirname "$0")"
# Its server asks for a database, which is not used; nothing is built for that.
(cd node && npm ci --ignore-scripts --no-audit --no-fund)
exec cargo run --release -- "$@"
