//! Tests of the whole daemon: the real binary, real sockets, a real HTTP endpoint, a real store. By promise, by the contract's
//! parts, and against peers that others wrote. `tests/test.sh` installs those peers and runs everything.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::let_underscore_must_use,
    clippy::print_stderr,
    reason = "a test stops at the first thing that is not as expected, and says so"
)]

mod contract;
mod fuzz;
mod peers;
mod promises;
mod simulation;
mod support;
mod tidy;
