//! The line that sends a kept request again. It goes into a shell by copy and paste, and a stranger's mail stands in it: so it is
//! one line of printable ASCII, every word of it in single quotes, every other octet written as an octal escape for printf.

use super::kept::Kept;

/// Bodies up to this length stand in the line; longer ones it fetches from the inspector.
const MAX_INLINE: usize = 8 * 1024;
/// What curl or the connection sets by itself.
const LEFT_OUT: [&str; 6] = ["host", "content-length", "connection", "transfer-encoding", "accept-encoding", "expect"];

/// `host` is the name under which the page was asked for.
pub(super) fn line(kept: &Kept, host: &str) -> String {
    let complete = kept.size == kept.body.len() as u64;
    let source = if complete && kept.body.len() <= MAX_INLINE {
        format!("printf '%b' {}", quoted(&escaped(&kept.body)))
    } else {
        format!("curl -sS {}", quoted(&format!("http://{host}/inspector/requests/{}/body", kept.number)))
    };
    let mut line = format!("{source} | curl -sS --data-binary @- {}", quoted(&format!("http://{host}{}", kept.path)));
    for (name, value) in &kept.headers {
        let printable = value.iter().all(|octet| (b' '..=b'~').contains(octet));
        if let (true, Ok(value)) = (printable && !LEFT_OUT.contains(&name.as_str()), std::str::from_utf8(value)) {
            line.push_str(&format!(" -H {}", quoted(&format!("{name}: {value}"))));
        }
    }
    line
}

/// For printf's `%b` (POSIX): a backslash doubled, whatever is not printable ASCII as `\0` and three octal digits.
fn escaped(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for &octet in octets {
        match octet {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b' '..=b'~' => text.push(char::from(octet)),
            _ => text.push_str(&format!("\\0{octet:03o}")),
        }
    }
    text
}

/// One word of a POSIX shell, whatever stands in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::kept::tests::kept;
    use std::process::{Command, Stdio};

    /// What a shell hands to the second command of the line.
    fn body_by_shell(line: &str) -> Vec<u8> {
        let (source, _) = line.split_once(" | curl").unwrap();
        let output = Command::new("sh").args(["-c", source]).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn a_shell_gives_back_every_octet() {
        let every: Vec<u8> = (0..=255).chain(*b"\\0101 \\x41 \\n $(touch pwned) `id` ' '' \" !! %s %b").collect();
        let line = line(&kept("/inspector", &[], &every, every.len() as u64), "localhost");
        assert!(line.bytes().all(|octet| (b' '..=b'~').contains(&octet)));
        assert_eq!(body_by_shell(&line), every);
    }

    #[test]
    fn headers_stay_words() {
        let headers = [("content-type", "text/plain; x='$(id)'"), ("host", "a"), ("content-length", "3"), ("x-bell", "\u{7}")];
        let line = line(&kept("/inspector/422", &headers, b"abc", 3), "127.0.0.1:8025");
        assert_eq!(
            line,
            "printf '%b' 'abc' | curl -sS --data-binary @- 'http://127.0.0.1:8025/inspector/422' \
             -H 'content-type: text/plain; x='\\''$(id)'\\'''"
        );
    }

    #[test]
    fn a_long_body_is_fetched() {
        let line = line(&kept("/inspector", &[], &[b'x'; MAX_INLINE + 1], MAX_INLINE as u64 + 1), "h:1");
        assert!(
            line.starts_with("curl -sS 'http://h:1/inspector/requests/7/body' | curl -sS --data-binary @- 'http://h:1/inspector'"),
            "{line}"
        );
    }
}
