//! Messages to send, each with something of its own.

/// A plain message with this subject and one line of text.
pub(crate) fn simple(subject: &str, text: &str) -> Vec<u8> {
    format!(
        "From: Alice <alice@sender.test>\r\nTo: bob@example.test\r\nSubject: {subject}\r\n\
         Message-ID: <{subject}@sender.test>\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\n\r\n{text}\r\n"
    )
    .into_bytes()
}

/// A message of exactly this size: lines of 76 octets that no two positions share, some with a dot first.
pub(crate) fn of_size(subject: &str, size: usize) -> Vec<u8> {
    let mut message = simple(subject, "");
    let mut line = 0_u64;
    while message.len() < size {
        let dot = if line.is_multiple_of(23) { "." } else { "" };
        let text = format!("{dot}{line:019}-{:019}-{:019}-", line.wrapping_mul(31), line.wrapping_mul(977));
        message.extend_from_slice(text.as_bytes());
        message.extend_from_slice(b"xxxxxxxxxx\r\n");
        line += 1;
    }
    message.truncate(size);
    let end = message.len() - 4;
    message[end..].copy_from_slice(b"xx\r\n");
    message
}

/// As SMTP wants lines to end, the last one too; a CR that ends none is a blank.
pub(crate) fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(message.len() + message.len() / 16);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        lines.extend(line.iter().map(|octet| if *octet == b'\r' { b' ' } else { *octet }));
        lines.extend_from_slice(b"\r\n");
    }
    lines
}
