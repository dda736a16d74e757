//! Recipient to route: globs, case-insensitive, first match wins.

use crate::config::Route;
use std::sync::Arc;

/// The routes in their order.
pub struct Routes(Vec<Arc<Route>>);

impl Routes {
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        Self(routes.to_vec())
    }

    /// The first route one of whose globs matches the mailbox. `postmaster` without a domain also matches a
    /// glob written for `postmaster` alone or `*`.
    #[must_use]
    pub fn find(&self, mailbox: &str) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| route.recipients.iter().any(|glob| matches(glob.as_bytes(), mailbox.as_bytes())))
    }
}

/// `*` stands for any octets, also none; letters match in either case. Linear in time but for the last star.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // Where to go on if the octets behind the last star do not match.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&octet) = text.get(t) {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                retry = Some((g, t));
            }
            Some(wanted) if wanted.eq_ignore_ascii_case(&octet) => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                g = star;
                t = from + 1;
                retry = Some((star, t));
            }
        }
    }
    glob.iter().skip(g).all(|&octet| octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs() {
        let table: &[(&str, &str, bool)] = &[
            ("*@tickets.example.com", "a@tickets.example.com", true),
            ("*@tickets.example.com", "A@TICKETS.example.COM", true),
            ("*@tickets.example.com", "a@tickets.example.com.evil.test", false),
            ("support+*@example.com", "support+42@example.com", true),
            ("support+*@example.com", "support@example.com", false),
            ("support+*@example.com", "support+@example.com", true),
            ("*", "", true),
            ("*", "postmaster", true),
            ("", "a@b", false),
            ("a*b*c", "aXXbYYbc", true),
            ("a*b*c", "aXXbYYbcd", false),
            ("[a-z]@example.com", "a@example.com", false),
            ("**@*", "x@y", true),
        ];
        for (glob, text, expected) in table {
            assert_eq!(matches(glob.as_bytes(), text.as_bytes()), *expected, "{glob} on {text}");
        }
    }

    #[test]
    fn a_long_run_of_stars_stays_cheap() {
        let glob = "*a".repeat(200);
        let text = "a".repeat(199) + &"b".repeat(4000);
        assert!(!matches(glob.as_bytes(), text.as_bytes()));
    }
}
