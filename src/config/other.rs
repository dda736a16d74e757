//! The smaller sections: `[forward]`, `[memory]`, `[store]`, `[dns]`, `[admin]`, `[log]`, `[shutdown]`.

use super::error::ConfigError;
use super::file::{Keys, Section, unknown_word};
use super::{
    Admin, AdminListen, Breaker, Dns, Forward, Log, LogFormat, LogLevel, LogMessages, LogRedact, Memory, Proxy, Redact, Secret, Shutdown,
    Store, hostname, limits, route, smtp,
};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub(super) const FORWARD_KEYS: Keys = Keys { texts: &["id_secret", "proxy"], others: &["workers", "queue", "breaker"] };
pub(super) const BREAKER_KEYS: Keys = Keys { texts: &["cooldown"], others: &["failures"] };
pub(super) const MEMORY_KEYS: Keys = Keys { texts: &["body_budget"], others: &["per_ip_share", "per_route_share"] };
pub(super) const STORE_KEYS: Keys = Keys { texts: &["path", "retention", "max_size", "redact"], others: &[] };
pub(super) const DNS_KEYS: Keys = Keys { texts: &["servers", "timeout"], others: &[] };
pub(super) const ADMIN_KEYS: Keys = Keys { texts: &["listen", "token_file", "hosts"], others: &[] };
pub(super) const LOG_KEYS: Keys = Keys { texts: &["level", "format", "messages", "redact"], others: &[] };
pub(super) const SHUTDOWN_KEYS: Keys = Keys { texts: &["grace"], others: &[] };

const DNS_PORT: u16 = 53;

fn proxy(section: &mut Section<'_>) -> Result<Option<Proxy>, ConfigError> {
    let Some(found) = section.secret("proxy")? else {
        section.note("proxy", "\"\"".to_owned(), super::effective::Origin::Default);
        return Ok(None);
    };
    if found.value.is_empty() {
        return Ok(None);
    }
    // The text may hold a password, so no error shows it.
    let mend = "write http://proxy.example:3128";
    let route::Endpoint { url, socket, authorization, .. } = route::fixed(section, "proxy", &found)?;
    let (Some(host), Some(port), "http", "/", None, None) =
        (url.host_str(), url.port_or_known_default(), url.scheme(), url.path(), url.query(), socket)
    else {
        return Err(found.invalid("is no proxy that is spoken to in the clear, by host and port alone", mend));
    };
    Ok(Some(Proxy { host: host.to_owned(), port, authorization }))
}

pub(super) fn forward(section: &mut Section<'_>, breaker: &mut Section<'_>) -> Result<Forward, ConfigError> {
    let workers = section.count("workers", limits::WORKERS)?;
    let queue = section.count("queue", limits::QUEUE)?;
    let id_secret = match section.secret("id_secret")? {
        Some(found) => Secret::new(found.value),
        None => {
            section.note("id_secret", "\"\"".to_owned(), super::effective::Origin::Default);
            Secret::default()
        }
    };
    let proxy = proxy(section)?;
    let breaker = Breaker {
        failures: breaker.count("failures", limits::BREAKER_FAILURES)?,
        cooldown: breaker.duration("cooldown", limits::BREAKER_COOLDOWN)?,
    };
    Ok(Forward { workers, queue, breaker, id_secret, proxy })
}

pub(super) fn memory(section: &mut Section<'_>) -> Result<Memory, ConfigError> {
    Ok(Memory {
        body_budget: section.size("body_budget", limits::BODY_BUDGET)?,
        per_ip_share: section.share("per_ip_share", limits::PER_IP_SHARE)?,
        per_route_share: section.share("per_route_share", limits::PER_ROUTE_SHARE)?,
    })
}

pub(super) fn store(section: &mut Section<'_>) -> Result<Store, ConfigError> {
    let path = section.text("path", "/var/lib/mailsluice/records.redb")?;
    let path = smtp::path(&path)?;
    let retention = section.duration("retention", limits::RETENTION)?;
    let max_size = section.size("max_size", limits::STORE_MAX_SIZE)?;
    let redact = redact(section)?;
    Ok(Store { path, retention, max_size, redact })
}

/// What is left out of records, of this box or of the fleet.
pub(super) fn redact(section: &mut Section<'_>) -> Result<Redact, ConfigError> {
    let mut redact = Redact::default();
    for found in section.texts("redact", &[])?.value {
        match found.value.as_str() {
            "subject" => redact.subject = true,
            "sender_ip" => redact.sender_ip = true,
            "response_body" => redact.response_body = true,
            other => return Err(unknown_word(&found.place, other, &["subject", "sender_ip", "response_body"])),
        }
    }
    Ok(redact)
}

pub(super) fn dns(section: &mut Section<'_>) -> Result<Dns, ConfigError> {
    let mut servers = Vec::new();
    for item in section.texts("servers", &[])?.value {
        let address = item.value.parse::<SocketAddr>();
        let Ok(address) = address.or_else(|_| item.value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT))) else {
            return Err(item.invalid(format!("{:?} is no address", item.value), "write addresses, as in [\"9.9.9.9\", \"[::1]:5353\"]"));
        };
        servers.push(address);
    }
    Ok(Dns { servers, timeout: section.duration("timeout", limits::DNS_TIMEOUT)? })
}

pub(super) fn admin(section: &mut Section<'_>) -> Result<Admin, ConfigError> {
    let written = section.text("listen", "127.0.0.1:8025")?;
    let mend = "write an address and a port, as in \"127.0.0.1:8025\", or \"unix:/run/mailsluice/admin.sock\"";
    let listen = match written.value.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => AdminListen::Unix(PathBuf::from(path)),
        Some(_) => return Err(written.invalid("the socket's path is not absolute", mend)),
        None => match written.value.parse() {
            Ok(address) => AdminListen::Tcp(address),
            Err(_) => return Err(written.invalid(format!("{:?} is no address with a port", written.value), mend)),
        },
    };
    let token_file = section.text("token_file", "")?;
    let token = if token_file.value.is_empty() {
        None
    } else {
        let token = section.read_named(&token_file.place, Path::new(&token_file.value))?;
        if token.is_empty() || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(token_file.invalid(
                format!("{} holds no token", token_file.value),
                "write one line of printable ASCII into it, as made by: openssl rand -hex 32",
            ));
        }
        Some(Secret::new(token))
    };
    if let (AdminListen::Tcp(address), None) = (&listen, &token)
        && !address.ip().to_canonical().is_loopback()
    {
        let mut place = section.place("token_file", written.place.line);
        place.line = token_file.place.line.or(place.line);
        return Err(place.invalid(
            format!("a token is required, since admin.listen {address} can be reached from other machines"),
            "write token_file = \"/etc/mailsluice/admin.token\", or listen on 127.0.0.1 or a unix: socket",
        ));
    }
    let mut hosts = Vec::new();
    for found in section.texts("hosts", &[])?.value {
        let name = found.value.strip_suffix('.').unwrap_or(&found.value).to_ascii_lowercase();
        if !hostname::is_domain(&name) && name.parse::<IpAddr>().is_err() {
            return Err(found.invalid(
                format!("{:?} is no host name", found.value),
                "write the name alone, as browsers and proxies send it in Host, without a scheme and a port: [\"mail-admin.example.com\"]",
            ));
        }
        hosts.push(name);
    }
    let token_path = token.is_some().then(|| PathBuf::from(token_file.value));
    Ok(Admin { listen, token, token_path, hosts })
}

pub(super) fn log(section: &mut Section<'_>) -> Result<Log, ConfigError> {
    let mut redact = LogRedact::default();
    for found in section.texts("redact", &[])?.value {
        match found.value.as_str() {
            "sender" => redact.sender = true,
            "recipients" => redact.recipients = true,
            "sender_ip" => redact.sender_ip = true,
            "message_id" => redact.message_id = true,
            "subject" => redact.subject = true,
            other => return Err(unknown_word(&found.place, other, &["sender", "recipients", "sender_ip", "message_id", "subject"])),
        }
    }
    Ok(Log {
        level: section.choice(
            "level",
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ],
            LogLevel::Info,
        )?,
        format: section.choice(
            "format",
            &[("auto", LogFormat::Auto), ("journald", LogFormat::Journald), ("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Auto,
        )?,
        messages: section.choice(
            "messages",
            &[("problems", LogMessages::Problems), ("all", LogMessages::All), ("none", LogMessages::None)],
            LogMessages::Problems,
        )?,
        redact,
    })
}

pub(super) fn shutdown(section: &mut Section<'_>) -> Result<Shutdown, ConfigError> {
    Ok(Shutdown { grace: section.duration("grace", limits::GRACE)? })
}
