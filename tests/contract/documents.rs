//! What the documents say to type works: each TOML block is a configuration that `check` takes, each command line one that the program knows.

use crate::support::certificates::Authority;
use crate::support::daemon::cli;
use std::path::{Path, PathBuf};

/// Every Markdown file of the project: at the top and under `packaging/`.
fn documents() -> Vec<PathBuf> {
    fn walk(dir: &Path, deep: bool, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && deep {
                walk(&path, true, found);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(root, false, &mut found);
    walk(&root.join("packaging"), true, &mut found);
    found.sort();
    found
}

/// Fenced blocks in one of these languages: where each begins, and its text.
fn blocks(languages: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let mut block: Option<(String, String)> = None;
        let mut inside = false;
        for (n, line) in text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                if inside {
                    found.extend(block.take());
                } else if languages.contains(&language.trim()) {
                    block = Some((format!("{}:{}", document.display(), n + 1), String::new()));
                }
                inside = !inside;
            } else if let Some((_, text)) = &mut block {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    found
}

#[test]
fn every_configuration_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir_all(etc.join("tls")).unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["mx.example.com"]);
    for (name, text) in [
        ("tls/fullchain.pem", certificate.as_str()),
        ("tls/privkey.pem", key.as_str()),
        ("ca.pem", authority.pem.as_str()),
        ("token", "a token of an example\n"),
        ("n8n.token", "another token\n"),
        ("zapier.url", "https://hooks.zapier.example/hooks/catch/1/2/\n"),
        ("make.url", "https://hook.make.example/inbound\n"),
        ("id.secret", "a secret of an example\n"),
        ("postgres", "host=db.example dbname=mail user=mailsluice password=x\n"),
        ("db-ca.pem", authority.pem.as_str()),
    ] {
        std::fs::write(etc.join(name), text).unwrap();
    }
    let blocks = blocks(&["toml"]);
    for (at, block) in blocks {
        let mut text = block.replace("/etc/mailsluice", etc.to_str().unwrap()).replace("/var/lib/mailsluice", dir.path().to_str().unwrap());
        if !text.contains("[[route]]") {
            text.push_str("\n[[route]]\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:3000/in\"\n");
        }
        let file = dir.path().join("example.toml");
        std::fs::write(&file, &text).unwrap();
        let finished = cli(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(finished.code, Some(0), "{at}: {}\n{text}", finished.err);
        // Nobody is led to a server that has no postmaster, or to a route that never gets mail.
        assert!(!finished.err.contains("postmaster") && !finished.err.contains("gets no mail"), "{at}: {}\n{text}", finished.err);
    }
}

#[test]
fn every_command_line_is_known() {
    let mut seen = 0;
    for (at, block) in blocks(&["sh", "console", "bash"]) {
        for line in block.replace("\\\n", " ").lines() {
            let line = line.trim().trim_start_matches("$ ").trim_start_matches("sudo ").split('#').next().unwrap();
            let Some(arguments) = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("mailsluice ")) else {
                continue;
            };
            let words: Vec<&str> = arguments.split(['|', '>']).next().unwrap().split_whitespace().collect();
            let command = words.iter().take_while(|word| !word.starts_with('-')).copied().chain(["--help"]);
            let help = cli(&command.collect::<Vec<_>>()).ok();
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag.split('=').next().unwrap()), "{at}: `{line}` has no {flag}");
            }
            seen += 1;
        }
    }
    assert!(seen > 0, "no command line in the documents");
}
