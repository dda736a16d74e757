//! The machine's own name, and what counts as one.

use std::ffi::{CStr, CString};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// How long a start waits for the machine's own name.
const PATIENCE: Duration = Duration::from_secs(2);

/// RFC 5321 4.1.2 `Domain`: labels of letters, digits and hyphens; one label alone is allowed there too.
#[must_use]
pub fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 255 && name.split('.').all(label)
}

/// The fully qualified name, as `hostname -f` finds it; the short one if nothing knows more, or not soon. Looked up once: a reload does
/// not wait for it again.
#[must_use]
pub fn fully_qualified() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(look_up).clone()
}

fn look_up() -> Option<String> {
    let short = nix::unistd::gethostname().ok()?.into_string().ok()?;
    if short.contains('.') {
        return Some(short);
    }
    // The C library asks a silent name server for up to 20 s and cannot be told otherwise: it is left to itself.
    let (found, answer) = mpsc::channel();
    let asked = short.clone();
    let asking = std::thread::Builder::new().name("hostname".to_owned()).spawn(move || found.send(canonical_name(&asked)));
    let known = asking.ok().and_then(|_| answer.recv_timeout(PATIENCE).ok()).flatten();
    Some(known.filter(|name| name.contains('.')).unwrap_or(short))
}

/// The resolver's canonical name of a host (`/etc/hosts` first, by the usual `nsswitch.conf`).
#[expect(unsafe_code, reason = "std resolves addresses but does not give the canonical name")]
fn canonical_name(host: &str) -> Option<String> {
    let host = CString::new(host).ok()?;
    // SAFETY: addrinfo is plain data for which all zeros means "no wishes".
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_CANONNAME;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = std::ptr::null_mut();
    // SAFETY: host ends with a NUL, hints and list live over the call.
    if unsafe { libc::getaddrinfo(host.as_ptr(), std::ptr::null(), &raw const hints, &raw mut list) } != 0 || list.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so list points to at least one entry, whose name is null or ends with a NUL.
    let name = unsafe {
        let name = (*list).ai_canonname;
        if name.is_null() { None } else { CStr::from_ptr(name).to_str().ok().map(str::to_owned) }
    };
    // SAFETY: list came from getaddrinfo and is not used after this.
    unsafe { libc::freeaddrinfo(list) };
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        let long = format!("{}.example", "a".repeat(64));
        let table = [
            ("mx.example.com", true),
            ("localhost", true),
            ("xn--bcher-kva.example", true),
            ("1.example", true),
            ("", false),
            ("mx..example", false),
            ("mx.example.", false),
            ("-mx.example", false),
            ("mx-.example", false),
            ("mx_1.example", false),
            ("mx example", false),
            ("bücher.example", false),
            (long.as_str(), false),
        ];
        for (name, expected) in table {
            assert_eq!(is_domain(name), expected, "{name:?}");
        }
    }

    #[test]
    fn the_machine_has_a_name() {
        assert!(fully_qualified().is_some_and(|name| !name.is_empty()));
    }
}
