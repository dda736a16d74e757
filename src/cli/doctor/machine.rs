//! io_uring, limits, memory, swap and clock.

use super::Finding;
use crate::cli::table::octets;
use crate::cli::unit::{SERVICE, Unit};
use crate::config::Config;
use crate::ring::SetupError;
use nix::sys::resource::{Resource, getrlimit};
use std::fs;

/// Descriptors beside those of connections: rings, store, log, admin listener.
const DESCRIPTORS_BESIDE: u64 = 256;
/// Session, TLS and the kernel's socket buffers.
const PER_CONNECTION: u64 = 24 << 10;
/// Stack and buffers of a thread that talks HTTP.
const PER_FORWARDER: u64 = 256 << 10;
/// The store's cache, twice while it is rewritten, and the program.
const ELSE: u64 = 192 << 20;
/// Of this process where nothing else is known: a container's.
const OWN_MEMORY_MAX: &str = "/sys/fs/cgroup/memory.max";
/// 0: anybody, 1: privileged processes, 2: nobody.
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// A ring, an operation and a cancel.
pub(super) fn io_uring() -> Finding {
    let Err(error) = crate::ring::probe() else { return Finding::fine("io_uring: a ring, an operation and a cancel work") };
    let Some(setup) = SetupError::of(&error) else {
        return Finding::problem(format!("io_uring does not work: {error}"), "use Linux 5.19 or newer");
    };
    let disabled = fs::read_to_string(IO_URING_DISABLED).is_ok_and(|value| value.trim() != "0");
    let (what, mend) = setup.what_and_mend();
    Finding::problem(what, if disabled { "sysctl -w kernel.io_uring_disabled=0" } else { mend })
}

/// What the daemon may open: by its unit, else as in this shell.
pub(super) fn limits(config: &Config, service: Option<&Unit>) -> Vec<Finding> {
    let connections = u64::try_from(config.smtp.max_connections).unwrap_or(u64::MAX);
    let workers = u64::try_from(config.forward.workers).unwrap_or(u64::MAX);
    let wanted = connections.saturating_add(workers).saturating_add(DESCRIPTORS_BESIDE);
    let needed = format!("{wanted} may be needed (smtp.max_connections, forward.workers)");
    if let Some(limit) = service.and_then(|unit| unit.number("LimitNOFILE")) {
        let what = format!("LimitNOFILE of {SERVICE} is {limit}, {needed}");
        let mend = || format!("systemctl edit mailsluice: LimitNOFILE={wanted}; or lower smtp.max_connections");
        return vec![if limit >= wanted { Finding::fine(what) } else { Finding::warning(what, mend()) }];
    }
    let open_files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= wanted => Finding::fine(format!("{hard} open files are allowed here, {needed}")),
        Ok((_, hard)) => Finding::warning(
            format!("{hard} open files are allowed here, {needed}"),
            format!("the packaged unit has LimitNOFILE=1048576; in a shell: ulimit -n {wanted}"),
        ),
        Err(error) => Finding::warning(format!("the limit of open files cannot be read: {error}"), "look at ulimit -Hn"),
    };
    vec![open_files]
}

/// Whether bodies may take what they are allowed to.
pub(super) fn memory(config: &Config, service: Option<&Unit>) -> Vec<Finding> {
    let Some(total) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text)) else {
        return vec![Finding::warning("the machine's memory cannot be read", "look at /proc/meminfo")];
    };
    let budget = config.memory.body_budget;
    let what = format!("memory.body_budget {} of {} in this machine", octets(budget), octets(total));
    // Connections, TLS, the store's cache and the system itself want the rest.
    let mut findings = vec![if budget > total / 2 {
        Finding::warning(what, "lower memory.body_budget to half of the machine's memory or less")
    } else {
        Finding::fine(what)
    }];
    let max = match service {
        Some(unit) => {
            unit.number("MemoryMax").map(|max| (max, "MemoryMax of mailsluice.service", "systemctl edit mailsluice: MemoryMax= higher"))
        }
        None => {
            let own = fs::read_to_string(OWN_MEMORY_MAX).ok().and_then(|max| max.trim().parse().ok());
            own.map(|max| (max, "the memory limit of this container", "give it more"))
        }
    };
    findings.extend(max.map(|(max, whose, more)| memory_max(config, max, whose, more)));
    findings
}

/// The unit's bound against what the daemon may take by its own bounds; the parts are those of the unit's comment.
fn memory_max(config: &Config, max: u64, whose: &str, more: &str) -> Finding {
    let connections = u64::try_from(config.smtp.max_connections).unwrap_or(u64::MAX);
    let workers = u64::try_from(config.forward.workers).unwrap_or(u64::MAX);
    let parts = [config.memory.body_budget, connections.saturating_mul(PER_CONNECTION), workers.saturating_mul(PER_FORWARDER), ELSE];
    let wanted = parts.into_iter().fold(0, u64::saturating_add);
    let what = format!("{whose} is {}, up to {} may be needed", octets(max), octets(wanted));
    if max < wanted {
        Finding::warning(what, format!("{more}, or lower memory.body_budget, smtp.max_connections"))
    } else {
        Finding::fine(what)
    }
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A body in swap is a body on disk (promise 2).
pub(super) fn swap(service: Option<&Unit>) -> Finding {
    let Ok(areas) = fs::read_to_string("/proc/swaps") else {
        return Finding::warning(
            "whether there is swap cannot be known here; a message in swap is a message on disk",
            "look at swapon --show on the machine itself; in a container give it no swap (memory-swap equal to memory)",
        );
    };
    let areas: Vec<_> = areas.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    if areas.is_empty() {
        return Finding::fine("no swap, so no message can reach the disk by it");
    }
    let areas = areas.join(", ");
    match service.and_then(|unit| unit.number("MemorySwapMax")) {
        Some(0) => Finding::fine(format!("swap ({areas}) is on, and mailsluice.service may not use it")),
        _ => Finding::warning(
            format!("swap ({areas}) is on; a message in swap is a message on disk"),
            "run the daemon by the packaged unit (MemorySwapMax=0), or: swapoff -a",
        ),
    }
}

/// Records, signatures and certificates need the right time.
#[expect(unsafe_code, reason = "no safe binding of adjtimex is among the dependencies")]
pub(super) fn clock() -> Finding {
    // SAFETY: timex is plain data; with modes 0 the call only reads, into a value that lives over it.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    if state < 0 {
        let error = std::io::Error::last_os_error();
        return Finding::warning(format!("the clock's state cannot be read: {error}"), "look at timedatectl");
    }
    clock_finding(state == libc::TIME_ERROR || status & libc::STA_UNSYNC != 0)
}

fn clock_finding(adrift: bool) -> Finding {
    if adrift {
        Finding::warning("the clock is not synchronized", "timedatectl set-ntp true (apt install systemd-timesyncd)")
    } else {
        Finding::fine("the clock is synchronized")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn config(text: &str) -> Config {
        let route = "[[route]]\nrecipients = [\"*\"]\nurl = \"http://localhost/\"\n";
        Config::parse(crate::config::Origin::Development, &format!("{text}\n{route}")).expect("good")
    }

    #[test]
    fn a_ring_works_or_it_is_said_how_to_allow_it() {
        let finding = io_uring();
        assert!(finding.severity == Severity::Fine || !finding.mend.is_empty(), "{finding:?}");
    }

    #[test]
    fn memory_of_the_machine() {
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:        2048 kB\n"), Some(2 << 20));
        assert_eq!(mem_total("MemTotal: many\n"), None);
        let severity =
            |budget: &str| memory(&config(&format!("[memory]\nbody_budget = \"{budget}\"")), None).first().map(|finding| finding.severity);
        assert_eq!(severity("64KiB"), Some(Severity::Fine));
        assert_eq!(severity("1TiB"), Some(Severity::Warning));
    }

    #[test]
    fn the_units_memory() {
        assert_eq!(memory_max(&config(""), 1 << 30, "", "").severity, Severity::Fine, "the packaged unit suits the defaults");
        assert_eq!(memory_max(&config("[memory]\nbody_budget = \"1GiB\""), 1 << 30, "", "").severity, Severity::Warning);
    }

    #[test]
    fn limits_of_this_shell() {
        let severity = |text: &str| limits(&config(text), None).first().map(|finding| finding.severity);
        assert_eq!(severity("[smtp]\nmax_connections = 1\n[forward]\nworkers = 1"), Some(Severity::Fine));
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        if hard < 1_000_000 {
            assert_eq!(severity("[smtp]\nmax_connections = 1000000"), Some(Severity::Warning));
        }
    }

    #[test]
    fn a_clock_adrift_has_a_command() {
        assert_eq!(clock_finding(false).severity, Severity::Fine);
        assert!(clock_finding(true).mend.starts_with("timedatectl"));
    }
}
