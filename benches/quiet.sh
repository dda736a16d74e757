#!/bin/sh
# What is measured on a quiet machine, in about forty minutes: the figures that are bounds on time, beside what they are compared with.
# Writes benches/overload.svg and benches/routes.svg; what is printed belongs into benches/README.md.
set -u
cd "$(dirname "$0")/.."
export MAILSLUICE_TEST_FULL=1
measure() {
	echo "== $1"
	cargo test --locked --release --test main -- --exact "$1" --include-ignored --nocapture --test-threads=1
}
cargo test --locked --release --test main --no-run || exit
measure promises::bounded::many_at_once_are_all_taken_by_a_quick_endpoint
measure promises::names::the_p99_beside_names_that_hang
measure promises::bounded::the_p99_beside_broken_endpoints
measure promises::overload::an_endpoint_with_two_speeds_and_no_limit_keeps_its_throughput
measure promises::overload::all_endpoints_at_all_loads
cargo bench --locked --bench routes
