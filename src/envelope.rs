//! Who sent a message to whom, and over what: plain values (RFC 5321 section 2.3.1).

use std::net::IpAddr;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// TCP peer, or the PROXY header's source; an IPv4-mapped address is plain IPv4 here.
    pub ip: IpAddr,
    pub port: u16,
}

/// The envelope of one message: complete when its data begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub peer: Peer,
    /// The argument of EHLO or HELO: anything that fits a command line and has no control characters.
    pub helo: String,
    /// Mailbox of MAIL FROM without its angle brackets; empty for the null reverse-path.
    pub reverse_path: String,
    /// Mailboxes of the accepted RCPT TO commands, in their order; never empty once data begin.
    pub recipients: Vec<String>,
    /// `SIZE=` of MAIL FROM, octets (RFC 1870).
    pub declared_size: Option<u64>,
    /// The client used SMTPUTF8 on MAIL FROM (RFC 6531), so replies may carry UTF-8.
    pub smtputf8: bool,
    /// Protocol version and cipher suite, as `TLSv1.3 TLS_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
}
