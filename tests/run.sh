#!/usr/bin/env bash
# Runs every check of this repository, and sets up what they need: a virtual environment with pyzmq in .venv.
#
#   bash tests/run.sh
#
# From any directory, with a terminal or without. ZINCMQ_PYTHON names a Python that has pyzmq, in place of .venv.
# The first failure ends the run, but for tests: all of them run first. A test that hangs is ended with them after 20 minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

target_dir=${CARGO_TARGET_DIR:-target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# Shows a command and runs it.
run() { printf '+ %s\n' "$*"; "$@"; }

step "Python with pyzmq, for the interoperation tests"
if [[ -z ${ZINCMQ_PYTHON:-} ]]; then
    if [[ ! -x .venv/bin/python ]]; then
        run python3 -m venv .venv || fail "python3 with its venv module is needed (on Debian: apt install python3-venv)"
    fi
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
    ZINCMQ_PYTHON=$PWD/.venv/bin/python
fi
"$ZINCMQ_PYTHON" -c 'import zmq; print("pyzmq", zmq.__version__, "on libzmq", zmq.zmq_version())'
export ZINCMQ_PYTHON ZINCMQ_REQUIRE_PYTHON=1

step "Formatting"
run cargo fmt --check

step "Lints, with all features and with none (which are the default ones)"
run cargo clippy --locked --all-targets --all-features -- -D warnings
run cargo clippy --locked --all-targets -- -D warnings
for feature in json protobuf store crdt fuzzing; do
    run cargo clippy --locked --features "$feature" -- -D warnings
done

step "Documentation"
RUSTDOCFLAGS="-D warnings" run cargo doc --locked --all-features --no-deps

step "The default build compiles no C"
# Those that compile or bind C, and those named *-sys that do something at build time. Bindings in plain Rust have no build script.
crates=$(cargo tree --locked --edges normal,build --prefix none --format '{p}' | cut -d' ' -f1 | sort -u)
if grep -xE 'cc|cmake|bindgen|pkg-config|vcpkg|autotools' <<<"$crates"; then
    fail "the default build has crates that compile or link C"
fi
cargo metadata --locked --format-version 1 | "$ZINCMQ_PYTHON" -c '
import json, sys
used = set(sys.argv[1].split())
for package in json.load(sys.stdin)["packages"]:
    builds = any("custom-build" in target["kind"] for target in package["targets"])
    if package["name"] in used and package["name"].endswith("-sys") and (builds or package["links"]):
        sys.exit("FAILED: " + package["name"] + " has a build script")
' "$crates"
printf '%s crates, none of them\n' "$(wc -l <<<"$crates")"
if cargo deny --version >/dev/null 2>&1; then
    run cargo deny check licenses bans sources
fi

step "Tests"
tests_passed=true
run timeout 1200 cargo test --locked --all-features --no-fail-fast 2>&1 | tee "$log" || tests_passed=false
run timeout 600 cargo test --locked --no-default-features --lib 2>&1 | tee -a "$log" || tests_passed=false
$tests_passed || { grep -E '^(     Running|   Doc-tests|test .* FAILED|test result)' "$log"; fail "some tests"; }

step "Examples"
# `cargo test` has built all of them. The others wait for someone to type.
for example in quickstart fan_out sockets shared_text shared_sheet whiteboard ordered_counter; do
    run timeout 120 cargo run --locked --quiet --all-features --example "$example"
done

step "A static command line"
triple=$(rustc -vV | sed -n 's/^host: //p')
# Without debug information, which is of no use here. `--target` keeps the flag off what runs at build time.
export CARGO_PROFILE_RELEASE_DEBUG=none
optimised=(--locked --release --target "$triple")
if [[ $triple == *-linux-* ]]; then
    export RUSTFLAGS="-C target-feature=+crt-static"
    run cargo build "${optimised[@]}" --features cli --bin zincmq
    static=$target_dir/$triple/release/zincmq
    run "$static" --version
    # ldd fails on what is not dynamic, in words that differ from libc to libc.
    linked=$(ldd "$static" 2>&1) || true
    grep -qE 'statically linked|not a dynamic executable|Not a valid dynamic program' <<<"$linked" ||
        fail "$static is not static: $linked"
    if command -v file >/dev/null; then
        run file "$static" | tee "$log.file"
        grep -qE 'static(ally|-pie) linked' "$log.file" || fail "$static is not static"
        rm -f "$log.file"
    fi
    printf 'static: %s\n' "$linked"
    run timeout 120 "$static" tour
    step "Attacks on a host, beside honest members"
    # Those that do not depend on how busy the machine is. docs/security.md says what the others measure.
    run timeout 600 "$ZINCMQ_PYTHON" tests/attack/run.py --binary "$static" \
        --case verdict --case epoch --case empty-frames --case half-messages --case silent-control --case half-open-control \
        --case rubbish-word-control --case subscription-hoard --case hello --case cluster-name --case manners
    step "The simulator"
else
    printf 'no static build on %s\n' "$triple"
fi
# `cli` only because the dependencies have been built so.
run timeout 600 cargo run --quiet "${optimised[@]}" --features cli,test-utils --example simulate -- --seeds 2000

step "All is well"
grep -E '^(     Running|   Doc-tests|test result)' "$log"
