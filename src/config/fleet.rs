//! `[fleet]`: where records are brought to beside the store.

use super::error::ConfigError;
use super::file::{Found, Keys, Section};
use super::{Fleet, Postgres, Secret, limits, other, route, smtp};
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};

pub(super) const KEYS: Keys = Keys {
    texts: &["postgres", "box", "ca_certificate", "client_certificate", "client_key", "retention", "redact", "otlp"],
    others: &["otlp_headers"],
};

const CONNECT: Duration = Duration::from_secs(5);
/// What a connection may be silent on before the kernel gives it up, where the kernel can be told.
const SILENCE: Duration = Duration::from_secs(15);
const EXAMPLE: &str = "\"host=db.example dbname=mail user=mailsluice password=… sslmode=verify-full\"";

pub(super) fn fleet(section: &mut Section<'_>) -> Result<Fleet, ConfigError> {
    let postgres = match section.secret("postgres")? {
        Some(found) if !found.value.is_empty() => {
            let file = section.named_file("postgres");
            Some(Postgres::parse(&found.value, file).map_err(|wrong| found.invalid(wrong, format!("write {EXAMPLE}")))?)
        }
        Some(_) => None,
        None => {
            section.note("postgres", "\"\"".to_owned(), super::effective::Origin::Default);
            None
        }
    };
    let name = section.text("box", "")?;
    if name.value.len() > 255 || name.value.chars().any(char::is_control) {
        return Err(name.invalid("is no name for people", "write a short one on one line, as in \"mx1\""));
    }
    let name = if name.value.is_empty() { this_machine() } else { name.value };
    let ca_certificate = section.text("ca_certificate", "")?;
    let ca_certificate = if ca_certificate.value.is_empty() { None } else { Some(smtp::path(&ca_certificate)?) };
    let identity = route::identity(section)?;
    let retention = section.duration("retention", limits::FLEET_RETENTION)?;
    let redact = other::redact(section)?;
    let written = section.text("otlp", "")?;
    let otlp = if written.value.is_empty() { None } else { Some(collector(&written)?) };
    let otlp_headers = route::header_fields(section, "otlp_headers", false)?;
    let otlp_headers = otlp_headers.into_iter().map(|(name, value)| (name, Secret::new(value.value))).collect();
    Ok(Fleet { postgres, name, ca_certificate, identity, retention, redact, otlp, otlp_headers })
}

fn this_machine() -> String {
    nix::unistd::gethostname().map_or_else(|_| "a box without a name".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn collector(written: &Found<String>) -> Result<url::Url, ConfigError> {
    let mend = "write where the collector takes OTLP over HTTP, as in \"http://127.0.0.1:4318\"";
    let url = url::Url::parse(&written.value).map_err(|error| written.invalid(format!("is no URL: {error}"), mend))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(written.invalid("is no http or https URL of a collector", mend));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(written.invalid("has credentials in it", "put them into otlp_headers"));
    }
    Ok(url)
}

impl Postgres {
    /// A connection string in libpq's form of keys and values.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold no value of it.
    pub fn parse(text: &str, file: Option<PathBuf>) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Err("is a URL, not a list of keys and values".to_owned());
        }
        let mut verify = None;
        let mut kept = String::new();
        for (key, value) in pairs(text)? {
            match key.as_str() {
                "sslmode" => {
                    verify = Some(match value.as_str() {
                        "verify-full" => true,
                        "disable" => false,
                        _ => return Err("has an sslmode other than verify-full and disable".to_owned()),
                    });
                }
                "sslrootcert" | "sslcert" | "sslkey" => {
                    return Err(format!("has {key}, which is fleet.ca_certificate, client_certificate or client_key here"));
                }
                _ => kept.push_str(&format!("{key}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"))),
            }
        }
        let mut client: tokio_postgres::Config = kept.parse().map_err(|_| "has a key or a value that is not known".to_owned())?;
        let is_near = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                let ip = name.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical());
                name == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
            }
        };
        let hosts = client.get_hosts();
        if hosts.is_empty() {
            return Err("names no host (a name, an address, or a folder with a socket)".to_owned());
        }
        let addresses_near = client.get_hostaddrs().iter().all(|ip| ip.to_canonical().is_loopback());
        if verify == Some(false) && !(hosts.iter().all(is_near) && addresses_near) {
            return Err("has sslmode=disable for another machine, where anybody between could read and change it".to_owned());
        }
        let is_socket = hosts.iter().all(|host| matches!(host, Host::Unix(_)));
        let tls = verify.unwrap_or(true) && !is_socket;
        client.ssl_mode(if tls { SslMode::Require } else { SslMode::Disable });
        if client.get_connect_timeout().is_none() {
            client.connect_timeout(CONNECT);
        }
        client.keepalives_idle(SILENCE).tcp_user_timeout(SILENCE);
        if client.get_application_name().is_none() {
            client.application_name("mailsluice");
        }
        Ok(Self { client, tls, file, text: Secret::new(text) })
    }

    /// As its file has it now: a password that was changed there is used at the next connection. A file that cannot be used keeps the old.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let read = self.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let new = read.map(|text| text.trim_end().to_owned()).filter(|text| !text.is_empty() && text != self.text.expose());
        new.and_then(|text| Self::parse(&text, self.file.clone()).ok()).unwrap_or_else(|| self.clone())
    }

    /// The user's name, where one is given.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.client.get_user()
    }
}

/// `key = value` or `key='value'`, where a backslash takes the next letter as it is.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok(found);
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace() && *letter != '=') {
            key.push(letter);
        }
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.next() != Some('=') || key.is_empty() || !key.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_') {
            return Err("is no list of keys and values".to_owned());
        }
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\\') => value.extend(letters.next()),
                Some('\'') if quoted => break,
                Some(letter) if !quoted && letter.is_whitespace() => break,
                Some(letter) => value.push(letter),
                None if quoted => return Err("has a quote that does not end".to_owned()),
                None => break,
            }
        }
        found.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_and_verified_unless_it_stays_on_the_machine() {
        for (text, tls) in [
            ("host=db.example dbname=mail user=m sslmode=verify-full", true),
            ("host=db.example user=m", true),
            ("host = 'db.example' user=m password='a \\' b'", true),
            ("host=127.0.0.1 user=m", true),
            ("host=127.0.0.1 user=m sslmode=disable", false),
            ("host=localhost user=m sslmode=disable", false),
            ("host=/run/postgresql user=m", false),
            ("host=a,b user=m target_session_attrs=read-write", true),
        ] {
            assert_eq!(Postgres::parse(text, None).map(|postgres| postgres.tls), Ok(tls), "{text}");
        }
        for (text, wrong) in [
            ("host=db.example user=m sslmode=disable", "another machine"),
            ("host=localhost hostaddr=192.0.2.1 user=m sslmode=disable", "another machine"),
            ("host=localhost,db.example user=m sslmode=disable", "another machine"),
            ("host=db.example user=m sslmode=require", "verify-full"),
            ("host=db.example user=m sslmode=prefer", "verify-full"),
            ("host=db.example sslrootcert=/x", "ca_certificate"),
            ("user=m", "no host"),
            ("host", "no list"),
            ("host=x password='y", "quote"),
            ("host=x colour=blue", "not known"),
            ("postgresql://m@db.example/mail", "URL"),
        ] {
            let error = Postgres::parse(text, None).expect_err(text);
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_password_comes_through_and_nothing_panics(password in "\\PC{0,20}", text in "\\PC{0,40}") {
            let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
            let postgres = Postgres::parse(&format!("host=/run user=m password='{quoted}'"), None).unwrap();
            proptest::prop_assert_eq!(postgres.client.get_password(), Some(password.as_bytes()));
            drop(Postgres::parse(&text, None));
        }
    }
}
