#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints as errors, documentation, licences of the dependencies, tests.
# `tests/check.sh quick` leaves the tests out.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "check: format"
cargo fmt --check
echo "check: lints"
cargo clippy --locked --quiet --all-targets -- -D warnings
echo "check: documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --document-private-items
cargo test --locked --quiet --doc
if command -v cargo-deny >/dev/null; then
    echo "check: dependencies"
    cargo deny --locked check licenses bans sources
else
    echo "check: dependencies NOT CHECKED: cargo-deny is not installed (cargo install cargo-deny)" >&2
fi
[ "${1:-}" = quick ] || exec tests/test.sh
