//! Against programs that others wrote. `tests/test.sh` installs them, and skips a group by its name where one cannot be had.

mod acme;
mod answers;
mod chromium;
mod collector;
mod container;
mod disk;
mod dns;
mod doctor;
mod documents;
mod endpoints;
mod fail2ban;
mod forgetful;
mod handlers;
mod haproxy;
mod large;
mod machine;
mod machines;
mod nginx;
mod openssl;
mod package;
mod parsers;
mod postfix;
mod postgres;
mod prometheus;
mod python;
mod rails;
mod receivers;
mod relays;
mod release;
mod rspamd;
mod senders;
mod swaks;
mod systemd;
mod tenants;
mod terminal;
mod testssl;
mod threads;
mod tinyproxy;

use std::path::PathBuf;

/// A program of a peer.
#[track_caller]
fn program(name: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin", "/usr/lib/postfix/sbin"]
        .iter()
        .map(|dir| PathBuf::from(dir).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed: tests/test.sh installs what the tests need"))
}
