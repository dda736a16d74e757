//! Every bound of the configuration: its default, the least and the most it may be, and why.
//!
//! Lower bounds are loose where a low value only costs the operator mail (they may know why), and strict where
//! it would break a promise. Upper bounds catch a slip of the pen, such as a duration in the wrong unit.

use super::unit::{GIB, KIB, MIB, TIB};
use std::time::Duration;

/// Default, least, most.
#[derive(Clone, Copy, Debug)]
pub struct Bound<T> {
    pub default: T,
    pub least: T,
    pub most: T,
}

const fn bound(default: u64, least: u64, most: u64) -> Bound<u64> {
    Bound { default, least, most }
}

const fn time(default: Duration, least: Duration, most: Duration) -> Bound<Duration> {
    Bound { default, least, most }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const TENTH: Duration = Duration::from_millis(100);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

// --- [smtp]

/// What large providers take as well; the whole message is in memory once.
pub const MAX_MESSAGE_SIZE: Bound<u64> = bound(25 * MIB, 1, GIB);
/// A header block is scanned in one piece; real ones stay under 64 KiB.
pub const MAX_HEADER_SIZE: Bound<u64> = bound(256 * KIB, KIB, 16 * MIB);
/// RFC 5321 6.3 suggests a large threshold, at least 100.
pub const MAX_RECEIVED: Bound<u64> = bound(100, 1, 10_000);
/// RFC 5321 4.5.3.1.8 asks for at least 100; the rest is sent in another transaction.
pub const MAX_RECIPIENTS: Bound<u64> = bound(100, 1, 10_000);
/// About 10 MiB of user memory for 10 000 idle connections; each is also a descriptor.
pub const MAX_CONNECTIONS: Bound<u64> = bound(10_000, 1, 1_000_000);
/// One address cannot take all of the above.
pub const MAX_CONNECTIONS_PER_IP: Bound<u64> = bound(100, 1, 1_000_000);
/// Makes long-lived senders come back, so that load spreads over a fleet; more than they send at once, for a limit that is met costs time.
pub const MAX_MESSAGES_PER_CONNECTION: Bound<u64> = bound(1000, 1, 1_000_000);
/// A client that errs more often than this is no mail server.
pub const MAX_ERRORS: Bound<u64> = bound(10, 1, 1000);
/// Between two messages a sender says RSET, and now and then NOOP.
pub const MAX_JUNK_COMMANDS: Bound<u64> = bound(100, 1, 1_000_000);
/// Long enough for a hundred recipients whose callbacks are slow; a connection that only talks ends.
pub const TRANSACTION_TIMEOUT: Bound<Duration> = time(s(600), TENTH, s(DAY));
/// RFC 5321 4.5.3.2.7 asks a server to wait at least 5 minutes.
pub const COMMAND_TIMEOUT: Bound<Duration> = time(s(300), TENTH, s(HOUR));
/// RFC 5321 4.5.3.2.5: 3 minutes per block.
pub const DATA_TIMEOUT: Bound<Duration> = time(s(180), TENTH, s(HOUR));
/// A message's memory is held for at most this long before it is forwarded.
pub const MESSAGE_TIMEOUT: Bound<Duration> = time(s(600), TENTH, s(DAY));
/// Octets per second over 60 s; a sender below this holds memory for nothing. 0: no lower limit.
pub const MIN_DATA_RATE: Bound<u64> = bound(256, 0, GIB);
/// Rings; 0 is one per core.
pub const THREADS: Bound<u64> = bound(0, 0, 1024);

// --- [[route]]

/// The sender is on the line: RFC 5321 4.5.3.2.6 gives 10 minutes for the reply to the end of data, real senders less.
pub const ROUTE_TIMEOUT: Bound<Duration> = time(s(30), s(1), s(300));
/// 0: a fair share of the workers among the routes that have work, half of them at most.
pub const MAX_CONCURRENCY: Bound<u64> = bound(0, 0, 65_536);
/// What an address of a Unix socket has room for.
pub(super) const SOCKET_PATH_OCTETS: usize = 107;
/// The name is a label in metrics and a column in lists.
pub const ROUTE_NAME_OCTETS: usize = 64;
/// "A status that means later" can only be a 4xx; 5xx always does.
pub const DEFER_STATUSES: std::ops::RangeInclusive<u64> = 400..=499;
pub const DEFER_STATUSES_DEFAULT: &[u16] = &[401, 407, 408, 421, 425, 429, 431];
/// Standard Webhooks: a secret is 24 to 64 octets; shorter ones are taken with a warning.
pub const SIGNING_SECRET_OCTETS: usize = 24;

// --- [forward]

/// Messages that may be with their endpoints at once, over all routes.
pub const WORKERS: Bound<u64> = bound(512, 1, 65_536);
/// Jobs that wait for a forwarder, per route, at the most: before that time and memory bound them.
pub const QUEUE: Bound<u64> = bound(8192, 1, 1_000_000);
/// 0: off.
pub const BREAKER_FAILURES: Bound<u64> = bound(20, 0, 1_000_000);
pub const BREAKER_COOLDOWN: Bound<Duration> = time(s(10), TENTH, s(HOUR));

// --- [memory]

/// Bodies and rendered requests; the unit's `MemoryMax` must lie well above it.
pub const BODY_BUDGET: Bound<u64> = bound(256 * MIB, 64 * KIB, TIB);
pub const PER_IP_SHARE: f64 = 0.25;
/// While other routes are configured.
pub const PER_ROUTE_SHARE: f64 = 0.5;

// --- [store]

/// Less than a second would delete a record before anyone could read it; the most is a century.
pub const RETENTION: Bound<Duration> = time(s(30 * DAY), s(1), s(36_525 * DAY));
/// Below this an empty store would already be over its limit.
pub const STORE_MAX_SIZE: Bound<u64> = bound(4 * GIB, 4 * MIB, 16 * TIB);

// --- [fleet]

pub const FLEET_RETENTION: Bound<Duration> = time(s(90 * DAY), s(HOUR), s(36_525 * DAY));

// --- [dns], [shutdown]

pub const DNS_TIMEOUT: Bound<Duration> = time(s(5), TENTH, s(60));
/// 0: messages in flight are answered 451 at once.
pub const GRACE: Bound<Duration> = time(s(30), Duration::ZERO, s(HOUR));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_within_its_bounds() {
        let counts = [
            MAX_MESSAGE_SIZE,
            MAX_HEADER_SIZE,
            MAX_RECEIVED,
            MAX_RECIPIENTS,
            MAX_CONNECTIONS,
            MAX_CONNECTIONS_PER_IP,
            MAX_MESSAGES_PER_CONNECTION,
            MAX_ERRORS,
            MAX_JUNK_COMMANDS,
            MIN_DATA_RATE,
            THREADS,
            MAX_CONCURRENCY,
            WORKERS,
            QUEUE,
            BREAKER_FAILURES,
            BODY_BUDGET,
            STORE_MAX_SIZE,
        ];
        for bound in counts {
            assert!((bound.least..=bound.most).contains(&bound.default), "{bound:?}");
        }
        let times = [
            COMMAND_TIMEOUT,
            TRANSACTION_TIMEOUT,
            DATA_TIMEOUT,
            MESSAGE_TIMEOUT,
            ROUTE_TIMEOUT,
            BREAKER_COOLDOWN,
            RETENTION,
            FLEET_RETENTION,
            DNS_TIMEOUT,
            GRACE,
        ];
        for bound in times {
            assert!((bound.least..=bound.most).contains(&bound.default), "{bound:?}");
        }
    }
}
