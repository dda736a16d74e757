//! The configuration as an operator meets it: broken files and the line they give, good files and what they mean.

use super::*;
use proptest::prelude::*;
use std::path::Path;

const ROUTE: &str = "[[route]]\nrecipients = [\"*\"]\nurl = \"https://app.example.com/in\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Origin::File("test.toml".into()), text)
}

fn load_and_check(path: &Path) -> Result<Config, ConfigError> {
    let config = Config::load(Some(path))?;
    config.check_files()?;
    Ok(config)
}

/// `tests/configs/*.toml`: the first line is `# error: ` and what stands behind the file's name.
#[test]
fn each_broken_file_gives_its_line() {
    let folder = Path::new("tests/configs");
    let mut failures = String::new();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).expect("a file in the folder");
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# error:")).expect("the first line says the error");
        let expected = format!("{}{}", path.display(), expected.trim_start());
        let got = load_and_check(&path).map_or_else(|error| error.to_string(), |_| "no error".to_owned());
        assert!(!got.contains("hidden"), "{}: the error shows a secret: {got}", path.display());
        assert!(!got.contains('\n'), "{}: more than one line: {got}", path.display());
        if got != expected {
            failures.push_str(&format!("expected {expected}\ngot      {got}\n"));
        }
    }
    assert!(files > 70, "only {files} files were found");
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn a_file_that_is_not_there() {
    let error = Config::load(Some(Path::new("tests/configs/none"))).expect_err("it is not there");
    assert_eq!(
        error.to_string(),
        "tests/configs/none: cannot be read: No such file or directory (os error 2); create it or correct the path"
    );
}

#[test]
fn the_development_configuration() {
    let config = Config::load(None).expect("it is ours");
    assert_eq!(config.origin, Origin::Development);
    assert_eq!(config.smtp.listen, ["127.0.0.1:2525".parse().expect("an address")]);
    assert_eq!(config.admin.listen, AdminListen::Tcp("127.0.0.1:8025".parse().expect("an address")));
    assert_eq!(config.store.path, Path::new("./mailsluice-data/records.redb"));
    assert_eq!(config.warnings, Vec::new());
    let [route] = config.routes.as_slice() else { panic!("one route") };
    assert_eq!((route.name.as_str(), route.target.url.as_str()), ("inspector", "http://127.0.0.1:8025/inspector"));
    assert_eq!((route.recipients.as_slice(), route.format), (["*".to_owned()].as_slice(), Format::Json));
}

/// The contract's defaults, each by its value.
#[test]
fn the_defaults() {
    let config = parse(&format!("[smtp]\nhostname = \"mx.example.com\"\n{ROUTE}")).expect("good");
    let smtp = &config.smtp;
    let seconds = Duration::from_secs;
    assert_eq!(smtp.listen, ["[::]:25".parse().expect("an address")]);
    assert_eq!((smtp.max_message_size, smtp.max_header_size), (25 << 20, 256 << 10));
    assert_eq!((smtp.max_received, smtp.max_recipients, smtp.max_errors), (100, 100, 10));
    assert_eq!((smtp.max_junk_commands, smtp.transaction_timeout), (100, seconds(600)));
    assert_eq!((smtp.max_connections, smtp.max_connections_per_ip, smtp.max_messages_per_connection), (10_000, 100, 1000));
    assert_eq!((smtp.command_timeout, smtp.data_timeout, smtp.message_timeout), (seconds(300), seconds(180), seconds(600)));
    assert_eq!((smtp.bare_newline, smtp.min_data_rate), (BareNewline::Reject, 256));
    assert!(smtp.proxy_protocol_from.is_empty() && smtp.tls.is_none() && smtp.threads > 0);
    let [route] = config.routes.as_slice() else { panic!("one route") };
    assert_eq!((route.name.as_str(), route.timeout, route.max_concurrency), ("route-1", seconds(30), 0));
    assert_eq!((route.format, route.attachments), (Format::Json, Attachments::Embed));
    assert_eq!(route.defer_statuses, [401, 407, 408, 421, 425, 429, 431]);
    assert!(route.target.headers.is_empty() && route.signing_secrets.is_empty() && route.authorize_url.is_none());
    assert!(route.authorization.is_none() && route.ca_certificate.is_none() && route.verify == Verify::default());
    assert_eq!((config.forward.workers, config.forward.queue), (512, 8192));
    assert_eq!(config.forward.breaker, Breaker { failures: 20, cooldown: seconds(10) });
    assert!(config.forward.id_secret.is_empty());
    let memory = &config.memory;
    assert_eq!((memory.body_budget, memory.per_ip_share, memory.per_route_share), (256 << 20, 0.25, 0.5));
    assert_eq!(config.store.path, Path::new("/var/lib/mailsluice/records.redb"));
    assert_eq!((config.store.retention, config.store.max_size), (seconds(30 * 86_400), 4 << 30));
    assert_eq!(config.store.redact, Redact::default());
    assert_eq!((config.dns.servers.len(), config.dns.timeout), (0, seconds(5)));
    assert_eq!(config.admin.listen, AdminListen::Tcp("127.0.0.1:8025".parse().expect("an address")));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Auto));
    assert_eq!(config.shutdown.grace, seconds(30));
    assert_eq!(config.warnings, Vec::new());
}

#[test]
fn a_full_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    let text = format!(
        r#"
[smtp]
listen = ["0.0.0.0:25", "[::1]:0", "[::1]:0"]
hostname_file = "{hostname}"
proxy_protocol_from = ["10.0.0.0/8", "fd00::1"]
threads = 3
bare_newline = "normalize"

[[route]]
name = "tickets"
recipients_file = "{recipients}"
url_file = "{url}"
format = "rfc822"
attachments = "metadata"
defer_statuses = []
signing_secret_file = "{secrets}"
authorize_url = "https://ask:me@app.example.com/authorize.json"
verify = ["spf", "dmarc"]
headers = {{ X-Tenant = "42", X-Key_file = "{key}" }}

[[route]]
recipients = ["*"]
url = "http://127.0.0.1:3000/"
max_concurrency = 7

[forward]
workers = 9
breaker = {{ failures = 0, cooldown = "1m" }}
id_secret_file = "{key}"

[memory]
per_ip_share = 1

[store]
redact = ["subject", "response_body"]

[dns]
servers = ["9.9.9.9", "[::1]:5353"]

[admin]
listen = "[::]:8025"
token_file = "{key}"
"#,
        hostname = file("hostname", "mx.example.com\n"),
        recipients = file("recipients", "*@a.example\n\n  b@b.example \n"),
        url = file("url", "https://us%3fer:se%40cret@app.example.com/in?x=1\n"),
        secrets = file("secrets", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n"),
        key = file("key", "k3y-of-all\n"),
    );
    let config = parse(&text).expect("good");
    assert_eq!(config.smtp.listen.len(), 3);
    assert_eq!(config.smtp.hostname, "mx.example.com");
    assert_eq!(config.smtp.threads, 3);
    assert_eq!(config.smtp.proxy_protocol_from, ["10.0.0.0/8".parse().expect("a network"), "fd00::1/128".parse().expect("a network")]);
    let [tickets, rest] = config.routes.as_slice() else { panic!("two routes") };
    assert_eq!(tickets.recipients, ["*@a.example", "b@b.example"]);
    assert_eq!(tickets.target.url.as_str(), "https://app.example.com/in?x=1");
    assert_eq!(tickets.authorization.as_ref().map(Secret::expose), Some("Basic dXM/ZXI6c2VAY3JldA=="));
    assert_eq!(tickets.authorize_url.as_ref().map(url::Url::as_str), Some("https://app.example.com/authorize.json"));
    assert_eq!(tickets.authorize_authorization.as_ref().map(Secret::expose), Some("Basic YXNrOm1l"));
    assert_eq!(tickets.verify, Verify { spf: true, dkim: false, dmarc: true });
    assert_eq!(tickets.signing_secrets.len(), 2);
    assert_eq!(tickets.target.headers, [("X-Tenant".to_owned(), Secret::new("42")), ("X-Key".to_owned(), Secret::new("k3y-of-all"))]);
    assert!(tickets.defer_statuses.is_empty());
    assert_eq!((tickets.max_concurrency, rest.max_concurrency), (0, 7));
    assert_eq!((rest.name.as_str(), config.forward.breaker.failures), ("route-2", 0));
    assert_eq!(config.dns.servers, ["9.9.9.9:53".parse().expect("an address"), "[::1]:5353".parse().expect("an address")]);
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some("k3y-of-all"));
    assert!(config.effective_text().contains("app.example.com/in?x=(secret)\""), "{}", config.effective_text());
    let everything = format!("{config:?}\n{}", config.effective_text());
    for secret in ["k3y", "se%40cret", "se@cret", "dXM/", "YXNr", "ask:me", "MfKQ9", "C2FVs"] {
        assert!(!everything.contains(secret), "{secret} shows in {everything}");
    }
}

#[test]
fn the_effective_text_has_each_origin_and_reads_back() {
    let text =
        format!("[smtp]\nhostname = \"mx.example.com\"\nthreads = 2\nmax_message_size = \"1024KiB\"\n{ROUTE}headers = {{ X-A = \"1\" }}\n");
    let config = parse(&text).expect("good");
    let shown = config.effective_text();
    for line in [
        "hostname = \"mx.example.com\"",
        "threads = 2",
        "max_message_size = \"1MiB\"",
        "[[route]]",
        "[forward.breaker]",
        "headers = { X-A = \"(secret)\" }",
    ] {
        assert!(
            shown.lines().any(|shown| shown.split("  #").next().is_some_and(|shown| shown.trim_end() == line)),
            "{line} is not in\n{shown}"
        );
    }
    let origin = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{key} = ")));
        line.and_then(|line| line.rsplit("  # ").next()).unwrap_or_default().to_owned()
    };
    assert_eq!(origin("hostname"), "line 2");
    assert_eq!(origin("max_message_size"), "line 4");
    assert_eq!(origin("url"), "line 7");
    assert_eq!(origin("max_errors"), "default");
    let again = parse(&shown).expect("it reads back");
    let values =
        |text: &str| text.lines().map(|line| line.split("  #").next().unwrap_or_default().trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&again.effective_text()), values(&shown));
}

/// The packaged file has every key, switched off, with the default that the code has.
#[test]
fn the_packaged_file_says_what_the_defaults_are() {
    let packaged = include_str!("../../packaging/mailsluice.toml");
    let error = parse(packaged).expect_err("it has no route").to_string();
    assert!(error.contains("no [[route]] is configured"), "{error}");

    // Each key in turn: only the one of the line is switched on, the sections are.
    let key_of = |line: &str| {
        // What the package makes itself is switched on in its file.
        let (key, _) = line.strip_prefix('#').or(line.starts_with("token_file").then_some(line))?.split_once(" = ")?;
        (!key.is_empty() && key.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_')).then(|| key.to_owned())
    };
    let examples = [
        "include",
        "token_file",
        "name",
        "recipients",
        "url",
        "hostname",
        "certificate",
        "private_key",
        "authorize_url",
        "ca_certificate",
        "scan",
    ];
    let mut section = String::new();
    let mut seen = Vec::new();
    let everywhere = parse(&format!("[smtp.tls]\ncertificate = \"a\"\nprivate_key = \"b\"\n{ROUTE}")).expect("good").effective_text();
    let defaults = toml::from_str::<toml::Table>(&everywhere).expect("it is TOML");
    for line in packaged.lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if bare.starts_with('[') {
            bare.trim_matches(['[', ']']).clone_into(&mut section);
        }
        let Some(key) = key_of(line) else { continue };
        seen.push(format!("{section}.{key}"));
        if examples.contains(&key.as_str()) {
            continue;
        }
        let written = toml::from_str::<toml::Table>(bare).expect("a line of TOML").remove(&key);
        let table = section.split('.').filter(|name| !name.is_empty()).try_fold(&defaults, |table, name| {
            let value = table.get(name)?;
            value.as_array().map_or(Some(value), |routes| routes.first())?.as_table()
        });
        let default = table.and_then(|table| table.get(&key)).cloned();
        let counted = ["threads", "max_concurrency"].contains(&key.as_str());
        let absent = toml::Value::String(String::new());
        assert!(
            counted || written == default || (written.as_ref() == Some(&absent) && default.is_none()),
            "{section}.{key}: {written:?}, {default:?}"
        );
    }
    let known = [
        ("smtp", &smtp::KEYS),
        ("smtp.tls", &smtp::TLS_KEYS),
        ("route", &route::KEYS),
        ("forward", &other::FORWARD_KEYS),
        ("forward.breaker", &other::BREAKER_KEYS),
        ("memory", &other::MEMORY_KEYS),
        ("store", &other::STORE_KEYS),
        ("dns", &other::DNS_KEYS),
        ("admin", &other::ADMIN_KEYS),
        ("log", &other::LOG_KEYS),
        ("shutdown", &other::SHUTDOWN_KEYS),
    ];
    for (section, keys) in known {
        for key in keys.texts.iter().chain(keys.others).filter(|key| !["tls", "breaker"].contains(*key)) {
            assert!(seen.contains(&format!("{section}.{key}")), "{section}.{key} is not explained");
        }
    }

    // Everything switched on at once is a configuration too, once there is a token.
    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("admin.token");
    std::fs::write(&token, "0123\n").expect("a file");
    let switched_on = |line: &str| line.strip_prefix('#').filter(|rest| key_of(line).is_some() || rest.starts_with('[')).map(str::to_owned);
    let all: String = packaged.lines().map(|line| switched_on(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
    let all = all.replace("/etc/mailsluice/admin.token", &token.display().to_string());
    parse(&all).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_can_hardly_be_meant_is_a_warning() {
    let table = [
        ("[memory]\nbody_budget = \"32MiB\"", "smtp.max_message_size"),
        ("[smtp]\nmax_message_size = \"64KiB\"", "smtp.max_header_size"),
        ("[forward]\nworkers = 2", "route-1 may hold 4 forwarders"),
    ];
    for (lines, expected) in table {
        let config = parse(&format!("{lines}\n{ROUTE}max_concurrency = 4\n")).expect("good");
        assert!(config.warnings.iter().any(|warning| warning.to_string().contains(expected)), "{expected}: {:?}", config.warnings);
    }
    let plain = "[[route]]\nrecipients = [\"*\"]\nurl = \"http://u:p@app.example.com/\"\nsigning_secret = [\"whsec_aGlkZGVu\"]\n";
    let warnings = parse(plain).expect("good").warnings.iter().map(|warning| format!("{warning}\n")).collect::<String>();
    assert!(warnings.contains("use https") && warnings.contains("6 octets"), "{warnings}");
}

/// Of version 1, which rustls does not verify but may be shown: `openssl x509 -req -signkey`.
const FIRST_VERSION: &str = "\
-----BEGIN CERTIFICATE-----
MIIBGTCBvwIUJa6OCZ+DVP83APPBzAQbZfqSt6IwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDYXBwMCAXDTI2MTEzMDE2NDYwNFoYDzIxMjYxMTA2MTY0NjA0WjAOMQww
CgYDVQQDDANhcHAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASEWZPYE8UGYhzu
E3zNs5Ukrv/9zYlgLfp9UGBAb4DKoDLnwWva5GBVr4CZMw1PYEfOiVpwqm/eZKhe
Cc4XRrK9MAoGCCqGSM49BAMCA0kAMEYCIQDoO3IPdo9xURcUqVrlZRUi4oU54yi0
Z2rInywsisZrlgIhAK5MZqU/DK6bXJIY/vvFEwPJgyBI0NMh8Z/3lBz6kikm
-----END CERTIFICATE-----
";
const ITS_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHVocXkpIQXR5mnCR
yAmZ88Zc5y/razv9pHh3plnL9LGhRANCAASEWZPYE8UGYhzuE3zNs5Ukrv/9zYlg
Lfp9UGBAb4DKoDLnwWva5GBVr4CZMw1PYEfOiVpwqm/eZKheCc4XRrK9
-----END PRIVATE KEY-----
";

#[test]
fn a_pair_of_certificate_and_key() {
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it can be written");
    let one = rcgen::generate_simple_self_signed(["mx.example.com".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["mx.example.com".to_owned()]).expect("a certificate");
    write("one.pem", &one.cert.pem());
    write("one.key", &one.signing_key.serialize_pem());
    write("other.key", &other.signing_key.serialize_pem());
    write("first.pem", FIRST_VERSION);
    write("first.key", ITS_KEY);
    write("empty.pem", "");
    write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let table = [
        ("one.pem", "one.key", None),
        ("first.pem", "first.key", None),
        ("first.pem", "one.key", Some("does not belong to")),
        ("one.pem", "other.key", Some("does not belong to")),
        ("one.key", "one.key", Some("holds no certificate")),
        ("one.pem", "one.pem", Some("holds no private key")),
        ("empty.pem", "one.key", Some("holds no certificate")),
        ("broken.pem", "one.key", Some("cannot be read")),
        ("one.pem", "none.key", Some("No such file")),
    ];
    for (certificate, key, expected) in table {
        let folder = folder.path().display();
        let text = format!("[smtp.tls]\ncertificate = \"{folder}/{certificate}\"\nprivate_key = \"{folder}/{key}\"\n{ROUTE}");
        let got = parse(&text).expect("good").check_files().map_err(|error| error.to_string());
        match (expected, got) {
            (None, Ok(())) => {}
            (Some(expected), Err(got)) => {
                assert!(got.contains(expected), "{certificate} {key}: {got}");
                let line = if expected.contains("certificate") || certificate == "broken.pem" { 2 } else { 3 };
                assert!(got.starts_with(&format!("test.toml:{line}: smtp.tls.")), "{certificate} {key}: {got}");
            }
            (expected, got) => panic!("{certificate} {key}: expected {expected:?}, got {got:?}"),
        }
    }
}

proptest! {
    /// Whatever is written, the answer is a configuration or one line.
    #[test]
    fn no_text_is_a_panic(text in "([a-z_\\[\\]=\" \\n0-9.{}]{0,40}|\\[\\[route\\]\\]\\n|url = |\"https://x\"\\n|[^\\x00]{0,8}){0,12}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}

#[test]
fn no_value_of_a_query_is_shown() {
    for (query, shown) in [
        ("?token=k3y", "?token=(secret)"),
        ("?k3y", "?(secret)"),
        ("?a=k3y&b=k3y=&c=&d", "?a=(secret)&b=(secret)&c=&(secret)"),
        ("?", "?"),
        ("", ""),
    ] {
        let text = ROUTE.replace("url = \"https://app.example.com/in\"", &format!("url = \"https://app.example.com/in{query}\""));
        let config = parse(&text).expect("good");
        let effective = config.effective_text();
        assert!(effective.contains(&format!("\"https://app.example.com/in{shown}\"")), "{query}: {effective}");
        parse(&effective).expect("it reads back");
    }
}
