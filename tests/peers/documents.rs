//! What `packaging/docs` shows to those who come from elsewhere: configurations, fields, functions, against real messages.

use super::python;
use crate::support::client::deliver;
use crate::support::daemon::cli;
use crate::support::process::run;
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docs").join(name)).unwrap()
}

/// The page's fenced blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    page.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

#[track_caller]
fn only(page: &str, language: &str) -> String {
    blocks(page, language).try_into().map(|[block]: [String; 1]| block).unwrap()
}

/// The page's configurations as a file each, with the files that they name.
fn configurations(dir: &Path, name: &str) -> Vec<PathBuf> {
    for (file, text) in
        [("n8n.token", "a-token"), ("zapier.url", "https://hooks.example.com/1/a"), ("make.url", "https://hook.example.com/a")]
    {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let blocks = blocks(&page(name), "toml");
    assert!(!blocks.is_empty());
    let write = |(n, block): (usize, &String)| {
        let file = dir.join(format!("{name}.{n}.toml"));
        let store = format!("[store]\npath = \"{}\"\n", dir.join("records.redb").display());
        std::fs::write(&file, block.replace("/etc/mailsluice/", &format!("{}/", dir.display())) + "\n" + &store).unwrap();
        file
    };
    blocks.iter().enumerate().map(write).collect()
}

#[test]
fn configurations_are_good() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["coming-from.md", "automation.md"].iter().flat_map(|name| configurations(dir.path(), name)) {
        let said = cli(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{}: {said:?}", file.display());
    }
}

/// A reply with an HTML part and an attachment.
const MESSAGE: &str = "Received: from a by b\r\nReceived: from c by d\r\nFrom: Ann <ann@sender.test>\r\nTo: support@example.test\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\
    Message-ID: <1@sender.test>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n\
    --c\r\n\r\nIt burns.\r\n\r\nOn Mon, 30 Nov 2026 at 10:00, Bob <bob@example.test> wrote:\r\n> Does it?\r\n--c\r\nContent-Type: text/html\r\n\r\n<p>It burns.</p>\r\n--c--\r\n\
    --b\r\nContent-Type: text/csv; name=a.csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\n1,2\r\n--b--\r\n";

fn received() -> Value {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json"));
    deliver(daemon.smtp(), "ann@sender.test", &["support@example.test"], MESSAGE.as_bytes()).starts("250 ");
    serde_json::from_slice(&endpoint.only().body).unwrap()
}

/// Each field that the tables name is in the document; those of checks are where a route has them.
#[test]
fn fields_are_where_the_tables_say() {
    let mail = received();
    let page = page("coming-from.md");
    let mut seen = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let Some(here) = row.split('|').nth(2) else { continue };
        for field in here.split('`').skip(1).step_by(2) {
            let top = field.split('.').next().unwrap();
            let checked = ["envelope.spf", "envelope.dkim", "envelope.spam"].iter().any(|check| field.starts_with(check));
            if checked || !["headers", "envelope", "plain", "html", "reply_plain", "attachments"].contains(&top) {
                continue;
            }
            assert!(mail.pointer(&format!("/{}", field.replace('.', "/"))).is_some(), "{field}: {mail}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} fields");
}

#[test]
fn the_fields_of_others_can_be_made() {
    let mail = received();
    let code = only(&page("coming-from.md"), "python");
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("fields.py");
    std::fs::write(
        &script,
        code + "\nimport sys\nmail = json.load(sys.stdin)\nprint(json.dumps([sendgrid(mail), mailgun(mail, 'support@example.test')]))\n",
    )
    .unwrap();
    let input = dir.path().join("mail.json");
    std::fs::write(&input, mail.to_string()).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec /usr/bin/python3 \"$0\" <\"$1\""]).arg(&script).arg(&input);
    let made: Value = serde_json::from_str(&run(&mut command, PATIENCE).ok()).unwrap();
    let [sendgrid, mailgun] = made.as_array().unwrap().as_slice() else { panic!("{made}") };
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_else(|| panic!("{field}: {of}")).to_owned();
    let envelope: Value = serde_json::from_str(&text(sendgrid, "envelope")).unwrap();
    assert_eq!(envelope, serde_json::json!({"to": ["support@example.test"], "from": "ann@sender.test"}));
    assert_eq!(text(sendgrid, "subject"), "Grüße");
    assert_eq!(text(sendgrid, "sender_ip"), "127.0.0.1");
    let files: Value = serde_json::from_str(&text(sendgrid, "attachment-info")).unwrap();
    assert_eq!(files, serde_json::json!({"attachment1": {"filename": "a.csv", "type": "text/csv"}}));
    assert!(text(sendgrid, "html").contains("<p>It burns.</p>"));
    assert_eq!((text(mailgun, "sender"), text(mailgun, "from")), ("ann@sender.test".into(), "Ann <ann@sender.test>".into()));
    assert!(text(mailgun, "body-plain").contains("> Does it?"));
    assert_eq!(text(mailgun, "stripped-text").trim(), "It burns.");
    assert_eq!(text(mailgun, "attachment-count"), "1");
}

/// What the builders of workflows say when they cannot is "later", with the page's configurations.
#[test]
fn a_workflow_that_is_off_costs_no_mail() {
    let dir = tempfile::tempdir().unwrap();
    let configurations: Vec<toml::Table> =
        configurations(dir.path(), "automation.md").iter().map(|file| std::fs::read_to_string(file).unwrap().parse().unwrap()).collect();
    let off: &[(&str, &[u16])] = &[("n8n", &[404, 403, 500]), ("zapier", &[429]), ("make", &[400, 410, 429]), ("node-red", &[404, 500])];
    for (name, statuses) in off {
        let configuration = configurations.iter().find(|one| one["route"][0]["name"].as_str() == Some(name)).unwrap();
        let mut statuses = statuses.to_vec();
        let answers = std::sync::Mutex::new(statuses.clone());
        let endpoint = Endpoint::with(move |_| {
            let mut left = answers.lock().unwrap();
            Answer::status(if left.is_empty() { 422 } else { left.remove(0) })
        })
        .start();
        let mut config = Config::to(&endpoint);
        if let Some(defers) = configuration["route"][0].get("defer_statuses") {
            config = config.of_route("defer_statuses", defers.clone());
        }
        let daemon = Daemon::start(config);
        let message = MESSAGE.as_bytes();
        for status in statuses.drain(..) {
            let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message);
            assert!(reply.code == 450, "{name} {status}: {reply:?}");
        }
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], message).starts("554 ");
    }
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The page's function by a program of its language, on a signed request, then with another body and another secret: `true`, `false`, `false`.
#[track_caller]
fn verifies(file: &str, language: &str, call: &str, program: impl Fn(&Path) -> Command) {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json").of_route("signing_secret", vec![OTHER, SECRET]));
    deliver(daemon.smtp(), "ann@sender.test", &["support@example.test"], MESSAGE.as_bytes()).starts("250 ");
    let request = endpoint.only();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join(file);
    std::fs::write(&script, format!("{}\n{call}\n", only(&page("applications.md"), language))).unwrap();
    let body = String::from_utf8(request.body.clone()).unwrap();
    let third = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (body, secret, expected) in
        [(body.clone(), SECRET, "true"), (body.replace("burns", "turns"), SECRET, "false"), (body, third, "false")]
    {
        std::fs::write(dir.path().join("body"), &body).unwrap();
        let mut command = program(&script);
        command.current_dir(dir.path()).arg(secret);
        for field in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            command.arg(request.field(field));
        }
        assert_eq!(run(&mut command, PATIENCE).ok().trim(), expected, "{file}");
    }
}

#[test]
fn ruby_verifies_signatures() {
    let call = "puts verified?(ARGV[0], File.binread(\"body\"), *ARGV[1, 3])";
    verifies("v.rb", "rb", call, |script| {
        let mut command = Command::new(super::program("ruby"));
        command.arg(script);
        command
    });
}

#[test]
fn php_verifies_signatures() {
    let call = "echo var_export(verified($argv[1], file_get_contents(\"body\"), ...array_slice($argv, 2)), true);";
    verifies("v.php", "php", call, |script| {
        let mut command = Command::new(super::program("php"));
        command.arg(script);
        command
    });
}

#[test]
fn node_verifies_signatures() {
    let call = "import { readFileSync } from \"node:fs\";\nconst [, , secret, id, timestamp, signature] = process.argv;\n\
        try { verified(secret, readFileSync(\"body\", \"utf8\"), { \"webhook-id\": id, \"webhook-timestamp\": timestamp, \"webhook-signature\": signature }); console.log(true); }\n\
        catch { console.log(false); }";
    verifies("v.mjs", "mjs", call, |script| {
        // Modules are looked for beside the script.
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/npm/node_modules");
        std::os::unix::fs::symlink(modules.canonicalize().unwrap(), script.with_file_name("node_modules")).or_else(ignore_there).unwrap();
        let mut command = Command::new(super::program("node"));
        command.arg(script);
        command
    });
}

fn ignore_there(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// The page's Python library is run by `python.rs`; here that it is the one that is pinned.
#[test]
fn the_page_names_the_versions_that_are_tried() {
    let peers = include_str!("../peers.list");
    let page = page("applications.md");
    for (kind, separator) in [("pip", "=="), ("npm", "@")] {
        let line = peers.lines().find(|line| line.starts_with(kind) && line.contains("standardwebhooks")).unwrap();
        let version = line.split_whitespace().nth(1).unwrap().split_once(separator).unwrap().1;
        assert!(page.contains(version), "{kind} {version}");
    }
    assert!(python::interpreter().exists());
}
