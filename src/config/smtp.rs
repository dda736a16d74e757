//! `[smtp]` and `[smtp.tls]`.

use super::error::ConfigError;
use super::file::{Found, Keys, Section};
use super::{BareNewline, Smtp, Tls, TlsVersion, hostname, limits};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub(super) const KEYS: Keys = Keys {
    texts: &[
        "listen",
        "hostname",
        "max_message_size",
        "max_header_size",
        "bare_newline",
        "transaction_timeout",
        "command_timeout",
        "data_timeout",
        "message_timeout",
        "min_data_rate",
        "proxy_protocol_from",
    ],
    others: &[
        "max_received",
        "max_recipients",
        "max_connections",
        "max_connections_per_ip",
        "max_messages_per_connection",
        "max_errors",
        "max_junk_commands",
        "threads",
        "tls",
    ],
};

pub(super) const TLS_KEYS: Keys = Keys { texts: &["certificate", "private_key", "min_version"], others: &["require"] };

/// Everything of the section but its TLS part, which is a section of its own.
pub(super) fn read(section: &mut Section<'_>, tls: Option<Tls>) -> Result<Smtp, ConfigError> {
    Ok(Smtp {
        listen: listen(section)?,
        hostname: own_name(section)?,
        max_message_size: section.size("max_message_size", limits::MAX_MESSAGE_SIZE)?,
        max_header_size: section.size("max_header_size", limits::MAX_HEADER_SIZE)?,
        max_received: section.count("max_received", limits::MAX_RECEIVED)?,
        max_recipients: section.count("max_recipients", limits::MAX_RECIPIENTS)?,
        max_connections: section.count("max_connections", limits::MAX_CONNECTIONS)?,
        max_connections_per_ip: section.count("max_connections_per_ip", limits::MAX_CONNECTIONS_PER_IP)?,
        max_messages_per_connection: section.count("max_messages_per_connection", limits::MAX_MESSAGES_PER_CONNECTION)?,
        max_errors: section.count("max_errors", limits::MAX_ERRORS)?,
        max_junk_commands: section.count("max_junk_commands", limits::MAX_JUNK_COMMANDS)?,
        transaction_timeout: section.duration("transaction_timeout", limits::TRANSACTION_TIMEOUT)?,
        bare_newline: section.choice(
            "bare_newline",
            &[("reject", BareNewline::Reject), ("normalize", BareNewline::Normalize)],
            BareNewline::Reject,
        )?,
        command_timeout: section.duration("command_timeout", limits::COMMAND_TIMEOUT)?,
        data_timeout: section.duration("data_timeout", limits::DATA_TIMEOUT)?,
        message_timeout: section.duration("message_timeout", limits::MESSAGE_TIMEOUT)?,
        min_data_rate: section.size("min_data_rate", limits::MIN_DATA_RATE)?,
        proxy_protocol_from: networks(section)?,
        threads: threads(section)?,
        tls,
    })
}

pub(super) fn read_tls(section: &mut Section<'_>) -> Result<Option<Tls>, ConfigError> {
    if !section.is_present() {
        return Ok(None);
    }
    Ok(Some(Tls {
        certificate: path(&section.required_text("certificate", "\"/etc/mailsluice/tls/fullchain.pem\"")?)?,
        private_key: path(&section.required_text("private_key", "\"/etc/mailsluice/tls/privkey.pem\"")?)?,
        require: section.flag("require", false)?,
        min_version: section.choice("min_version", &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)], TlsVersion::V1_2)?,
    }))
}

/// A path that is at least not empty.
pub(super) fn path(found: &Found<String>) -> Result<PathBuf, ConfigError> {
    if found.value.is_empty() {
        return Err(found.invalid("is empty", "write the path of a file"));
    }
    Ok(PathBuf::from(&found.value))
}

fn listen(section: &mut Section<'_>) -> Result<Vec<SocketAddr>, ConfigError> {
    let list = section.texts("listen", &["[::]:25"])?;
    let mend = "write addresses and ports, as in [\"[::]:25\"] or [\"0.0.0.0:25\"]";
    if list.value.is_empty() {
        return Err(list.invalid("is empty", mend));
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in &list.value {
        let Ok(address) = item.value.parse() else {
            return Err(item.invalid(format!("{:?} is no address with a port", item.value), mend));
        };
        // Port 0 takes any free one, so it may stand there more than once.
        if addresses.contains(&address) && address.port() != 0 {
            return Err(item.invalid(format!("{address} is there twice"), "keep one of them"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn own_name(section: &mut Section<'_>) -> Result<String, ConfigError> {
    let mend = "write the name that the MX record points to, as in \"mx.example.com\"";
    if let Some(found) = section.text_if_present("hostname")? {
        if !hostname::is_domain(&found.value) {
            return Err(found.invalid(format!("{:?} is no domain name", found.value), mend));
        }
        return Ok(found.value);
    }
    let machine = hostname::fully_qualified().unwrap_or_default();
    let found = section.text("hostname", &machine)?;
    if !hostname::is_domain(&found.value) {
        return Err(found.invalid(format!("this machine's name {machine:?} is no domain name"), mend));
    }
    Ok(found.value)
}

fn networks(section: &mut Section<'_>) -> Result<Vec<IpNet>, ConfigError> {
    let list = section.texts("proxy_protocol_from", &[])?;
    let mut networks = Vec::new();
    for item in &list.value {
        // One address alone is its own network.
        let network = item.value.parse().or_else(|_| item.value.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network else {
            return Err(item.invalid(format!("{:?} is no network", item.value), "write CIDRs, as in [\"10.0.0.0/8\", \"fd00::/8\"]"));
        };
        networks.push(network);
    }
    Ok(networks)
}

fn threads(section: &mut Section<'_>) -> Result<usize, ConfigError> {
    let written = section.count("threads", limits::THREADS)?;
    if written > 0 {
        return Ok(written);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    section.show("threads", cores.to_string());
    Ok(cores)
}
