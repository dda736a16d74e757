//! A Rails application with Action Mailbox receives by its relay ingress and routes each message to the right mailbox.

use crate::support::admin::Admin;
use crate::support::client::deliver;
use crate::support::port;
use crate::support::process::Process;
use crate::support::{Config, Daemon, eventually_within, messages};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PASSWORD: &str = "s3cr:t@x";

#[test]
fn action_mailbox_routes_each_message() {
    let dir = tempfile::tempdir().unwrap();
    let port = port::free();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/mailbox.rb");
    let mut command = Command::new(super::program("ruby"));
    command.arg(script).arg(port.to_string()).arg(dir.path()).arg(PASSWORD);
    let _rails = Process::start(&mut command);
    let rails = Admin::new(&format!("127.0.0.1:{port}"));
    let seen = || rails.try_get("/seen").ok().filter(|response| response.status == 200).map(|response| response.json());
    eventually_within(Duration::from_secs(90), "Rails", seen);

    let url = |userinfo: &str| format!("http://{userinfo}127.0.0.1:{port}/rails/action_mailbox/relay/inbound_emails");
    let config = Config::without_routes()
        .route("wrong", &["*@wrong.test"], &url("actionmailbox:nonsense@"))
        .of_route("format", "rails")
        .route("json", &["*@json.test"], &url("actionmailbox:s3cr%3At%40x@"))
        .of_route("format", "json")
        .route("rails", &["*"], &url("actionmailbox:s3cr%3At%40x@"))
        .of_route("format", "rails");
    let daemon = Daemon::start(config);
    let send = |to: &[&str], subject: &str| deliver(daemon.smtp(), "alice@sender.test", to, &messages::simple(subject, "some text"));

    // `To:` of these messages is somebody else: only the envelope says where they belong.
    send(&["support+42@example.test"], "for-support").starts("250 ");
    send(&["hidden@example.test"], "for-bcc").starts("250 ");
    let routed = |mailbox: &str, subject: &str| {
        eventually_within(Duration::from_secs(30), subject, || {
            let seen: Value = seen()?;
            seen.as_array()?.iter().find(|entry| entry[0] == mailbox && entry[1] == subject).cloned()
        })
    };
    let mail = routed("support", "for-support");
    assert_eq!(mail[2].as_str().unwrap().trim_end(), "some text");
    routed("hidden", "for-bcc");

    // Whatever a message begins with, and whatever is in its header, it gets to the mailbox of its recipient.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let table = std::fs::read_to_string(root.join("cases.tsv")).unwrap();
    let full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    let kinds = ["rails", "bom", "header", "no-separator"];
    let cases: Vec<&str> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let (name, kind) = (columns.next()?, columns.next()?);
            (kinds.contains(&kind) || full && !kind.starts_with("reply")).then_some(name)
        })
        .collect();
    assert!(cases.len() >= 7, "{cases:?}");
    let recipient = |name: &str| format!("case+{name}@example.test");
    for name in &cases {
        let message = messages::with_crlf(&std::fs::read(root.join(format!("{name}.eml"))).unwrap());
        deliver(daemon.smtp(), "alice@sender.test", &[&recipient(name)], &message).starts("250 ");
    }
    for name in &cases {
        routed("case", &recipient(name));
    }

    // Its 415 is a refusal; a 401 is a password that somebody will mend.
    send(&["x@wrong.test"], "denied").starts("450 4.3.0 ");
    send(&["x@json.test"], "wrong-type").starts("554 5.7.1 ");
    let statuses = |outcome: &str| -> Vec<Value> {
        let records = daemon.admin.records(&format!("outcome={outcome}"));
        records.iter().map(|record| record["server_response"]["status"].clone()).collect()
    };
    assert_eq!((statuses("rejected"), statuses("deferred")), (vec![415.into()], vec![401.into()]));
}
