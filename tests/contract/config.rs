//! Configuration files: each broken one beside the line it must produce, through the real command.

use crate::support::daemon::cli;
use crate::support::{Config, Endpoint};
use std::path::Path;

/// The first line of each file is `# error: ` and what stands behind the file's name; `check` and `serve` say it in one line, with the file's name.
#[test]
fn a_broken_file_is_one_line_and_78() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 40, "{} files", files.len());
    for (n, file) in files.iter().enumerate() {
        let text = std::fs::read_to_string(file).unwrap();
        let expected = text.lines().next().unwrap().strip_prefix("# error: ").unwrap().to_owned();
        assert!(!expected.is_empty(), "{}", file.display());
        // `serve` goes through the same code; a few are enough.
        for command in if n % 8 == 0 { &["check", "serve"][..] } else { &["check"] } {
            let finished = cli(&[command, "--config", file.to_str().unwrap()]);
            let what = format!("{command} {}: {finished:?}", file.display());
            assert_eq!(finished.code, Some(78), "{what}");
            assert_eq!(finished.err.trim_end().lines().count(), 1, "{what}");
            assert!(finished.err.contains(file.file_name().unwrap().to_str().unwrap()), "{what}");
            assert!(finished.err.contains(&expected), "{what}, expected {expected:?}");
        }
    }
}

#[test]
fn check_prints_the_effective_configuration_and_no_secret() {
    let endpoint = Endpoint::ok();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let url = endpoint.url("/in").replace("http://", "http://user:hunter2secret@");
    let config = Config::without_routes()
        .route("all", &["*"], &url)
        .of_route("signing_secret", vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
        .of_route("headers", toml::Table::from_iter([("X-Key".to_owned(), toml::Value::from("headersecret"))]))
        .set("forward.id_secret", "idsecretidsecretidsecret")
        .set("store.path", dir.path().join("s.redb").to_str().unwrap());
    std::fs::write(&file, config.text()).unwrap();
    let out = cli(&["check", "--config", file.to_str().unwrap()]).ok();
    for part in ["mx.test", "26214400", "retention", "max_received", "all"] {
        assert!(out.contains(part) || part == "26214400" && out.contains("25MiB"), "{part}: {out}");
    }
    for secret in ["hunter2secret", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "headersecret", "idsecret"] {
        assert!(!out.contains(secret), "{secret}: {out}");
    }
}

#[test]
fn secrets_come_from_files() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let secret = dir.path().join("secret");
    std::fs::write(&secret, format!("{}\n", endpoint.url("/from-a-file"))).unwrap();
    let text = Config::to(&endpoint)
        .text()
        .lines()
        .map(|line| if line.starts_with("url = ") { format!("url_file = {:?}", secret.to_str().unwrap()) } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n");
    let config = Config::parse(&text);
    let daemon = crate::support::Daemon::start_in(dir, config);
    crate::support::client::deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], b"\r\n").starts("250 ");
    assert_eq!(endpoint.only().target, "/from-a-file");
}
