//! What several benches send: made-up messages of a given size, the same at every run.

/// A header block as a relayed message has it, about 1.5 KiB per `hops` of 3.
pub(crate) fn header_block(hops: usize) -> Vec<u8> {
    let mut block = String::new();
    for hop in 0..hops {
        block.push_str(&format!(
            "Received: from mx{hop}.example.net (mx{hop}.example.net [192.0.2.{hop}])\r\n\tby relay{hop}.example.org with ESMTPS \
             id 4c2fA{hop}bX0zQ\r\n\tfor <anna@example.com>; Tue, 24 Nov 2026 21:0{}:11 +0000\r\n",
            hop % 10
        ));
    }
    block.push_str("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=k1;\r\n");
    for line in 0..6 {
        block.push_str(&format!("\tb={}{line}\r\n", "Zk3v9Qe0aLr7".repeat(5)));
    }
    block.push_str(
        "From: Bob <bob@example.org>\r\nTo: Anna <anna@example.com>\r\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?= of today\r\n\
         Date: Tue, 24 Nov 2026 21:00:00 +0000\r\nMessage-ID: <20261124210000.1@example.org>\r\nMIME-Version: 1.0\r\n\
         X-Mailer: bench\r\n",
    );
    block.into_bytes()
}

/// Text lines of 76 octets; none needs stuffing.
#[allow(dead_code, reason = "each bench is a crate of its own and uses what it needs")]
pub(crate) fn lines(octets: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the lazy dog, and then it takes a long nap.\r\n";
    line.iter().copied().cycle().take(octets / line.len() * line.len()).collect()
}

/// A plain message of about this many octets.
#[allow(dead_code, reason = "each bench is a crate of its own and uses what it needs")]
pub(crate) fn plain(octets: usize) -> Vec<u8> {
    let mut message = header_block(3);
    message.extend_from_slice(b"\r\n");
    let rest = octets.saturating_sub(message.len());
    message.extend_from_slice(&lines(rest));
    message
}
