//! Postfix as the sending server: relays to the daemon, keeps a message on a 4xx, delivers it later, bounces on a 5xx.

use super::senders::{FROM, TO};
use crate::support::certificates::Authority;
use crate::support::process::{Process, run};
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE, eventually};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// A Postfix of our own: its configuration, queue and data in one directory, nothing listening but its pickup.
struct Postfix {
    master: Process,
    dir: TempDir,
}

impl Postfix {
    fn start(relay: SocketAddr, extra: &str) -> Self {
        Self::start_with(relay, extra, "")
    }

    /// `@dir@` in its lines and further services is its directory.
    fn start_with(relay: SocketAddr, extra: &str, further: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("postfix").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::chown(dir.path(), Some(0), Some(0)).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["config", "queue", "data"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let owner = uid_of("postfix");
        std::os::unix::fs::chown(at("data"), Some(owner), None).unwrap();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {queue}\ndata_directory = {data}\ncommand_directory = /usr/sbin\n\
             daemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\nmyhostname = sender.test\n\
             mydestination =\nlocal_recipient_maps =\nrelayhost = [{ip}]:{port}\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
             maillog_file = {log}\nmaillog_file_prefixes = /var/tmp\nminimal_backoff_time = 3s\nmaximal_backoff_time = 4s\n\
             queue_run_delay = 1s\nsmtp_dns_support_level = disabled\nalias_maps =\nalias_database =\n{extra}\n",
            queue = at("queue").display(),
            data = at("data").display(),
            log = at("log").display(),
            ip = relay.ip(),
            port = relay.port(),
        );
        let placed = |text: &str| text.replace("@dir@", dir.path().to_str().unwrap());
        std::fs::write(at("config/main.cf"), placed(&main)).unwrap();
        let services = "pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
            tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\n\
            defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n\
            error unix - - n - - error\nretry unix - - n - - error\ndiscard unix - - n - - discard\nscache unix - - n - 1 scache\n\
            postlog unix-dgram n - n - 1 postlogd\nshowq unix n - n - - showq\nflush unix n - n 1000? 0 flush\n";
        std::fs::write(at("config/master.cf"), format!("{services}{}", placed(further))).unwrap();
        let config = at("config");
        run(Command::new(super::program("postfix")).arg("-c").arg(&config).args(["set-permissions"]), PATIENCE);
        let checked = run(Command::new(super::program("postfix")).arg("-c").arg(&config).arg("check"), PATIENCE);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let master =
            Process::start(Command::new("/usr/lib/postfix/sbin/master").arg("-c").arg(&config).arg("-d").env("MAIL_CONFIG", &config));
        eventually("the queue manager", || at("queue/private/rewrite").exists().then_some(()));
        Self { master, dir }
    }

    /// Puts a message into its queue.
    #[track_caller]
    fn submit(&self, subject: &str) {
        self.submit_between("alice@sender.test", &["bob@example.test"], subject);
    }

    #[track_caller]
    fn submit_between(&self, from: &str, to: &[&str], subject: &str) {
        let file = self.dir.path().join("message");
        std::fs::write(
            &file,
            format!("From: alice@sender.test\nTo: bob@example.test\nSubject: {subject}\n\n.a line with a dot\n\u{e9}\nlast\n"),
        )
        .unwrap();
        let mut command = Command::new(super::program("sendmail"));
        command.arg("-C").arg(self.config()).args(["-f", from]).args(to);
        let mut child = command.stdin(std::fs::File::open(&file).unwrap()).spawn().unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn config(&self) -> std::path::PathBuf {
        self.dir.path().join("config")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits for a line of its log that has all these parts.
    #[track_caller]
    fn wait_for(&self, parts: &[&str]) {
        let found = || self.log().lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(());
        let begun = std::time::Instant::now();
        while found().is_none() {
            assert!(begun.elapsed() < PATIENCE, "no line with {parts:?} in\n{}", self.log());
            crate::support::wait::tick();
        }
    }

    /// Waits until nothing is in its queue. Its manager looks each second, but not on a crowded machine.
    #[track_caller]
    fn run_empty(&self) {
        let until = std::time::Instant::now() + PATIENCE * 4;
        while self.queued() > 0 {
            assert!(std::time::Instant::now() < until, "{} in the queue\n{}", self.queued(), self.log());
            crate::support::wait::tick();
        }
    }

    /// Messages in its queue.
    fn queued(&self) -> usize {
        let count = |name: &str| walk(&self.dir.path().join("queue").join(name));
        ["maildrop", "incoming", "active", "deferred"].into_iter().map(count).sum()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The master takes its children with it.
        self.master.signal(nix::sys::signal::Signal::SIGTERM);
        let _ = self.master.wait(PATIENCE);
    }
}

fn walk(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

fn uid_of(name: &str) -> u32 {
    nix::unistd::User::from_name(name).unwrap().unwrap_or_else(|| panic!("no user {name}: tests/test.sh installs Postfix")).uid.as_raw()
}

#[test]
fn delivers_now_later_and_never() {
    let status = Arc::new(AtomicU16::new(200));
    let script = Arc::clone(&status);
    let endpoint = Endpoint::with(move |_| Answer::text(script.load(Ordering::Relaxed), "as told")).start();
    let daemon = Daemon::start(Config::to(&endpoint));
    let postfix = Postfix::start(daemon.smtp(), "");
    postfix.submit("now");
    endpoint.wait_for(1);
    postfix.wait_for(&["status=sent (250 2.0.0 Ok: "]);
    let body = String::from_utf8(endpoint.only().body.clone()).unwrap();
    assert!(body.contains("Subject: now\r\n") && body.contains("\r\n.a line with a dot\r\né\r\nlast\r\n"), "{body}");

    status.store(503, Ordering::Relaxed);
    postfix.submit("later");
    postfix.wait_for(&["status=deferred", "450 4.3.0 as told"]);
    assert!(postfix.queued() > 0, "kept by the sender");
    assert_eq!(daemon.admin.stat("messages.undelivered"), 1);
    status.store(200, Ordering::Relaxed);
    postfix.run_empty();
    let attempts: Vec<String> = endpoint.requests().iter().skip(1).map(|request| request.field("webhook-id").to_owned()).collect();
    assert!(attempts.len() >= 2 && attempts.iter().all(|id| *id == attempts[0]), "{attempts:?}");
    assert_eq!(daemon.admin.stat("messages.undelivered"), 0);

    // While the daemon is away, the message waits; then it comes.
    let down = daemon.kill();
    postfix.submit("while away");
    postfix.wait_for(&["status=deferred", "onnection refused"]);
    let daemon = down.restart();
    postfix.run_empty();
    assert_eq!(daemon.admin.records("outcome=delivered")[0]["subject"], "while away");

    status.store(422, Ordering::Relaxed);
    postfix.submit("never");
    postfix.wait_for(&["status=bounced", "554 5.7.1 as told"]);
}

/// Addresses as forwarders, list servers and ticket systems make them.
#[test]
fn long_addresses_arrive() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let postfix = Postfix::start(daemon.smtp(), "");
    for (from, to) in FROM.into_iter().zip(TO) {
        postfix.submit_between(from, &[to], "long");
    }
    endpoint.wait_for(FROM.len());
    postfix.run_empty();
    let records = daemon.admin.records("outcome=delivered");
    for (from, to) in FROM.into_iter().zip(TO) {
        let arrived = records.iter().any(|record| record["sender"] == from && record["recipients"] == serde_json::json!([to]));
        assert!(arrived, "{from} {to}: {records:?}");
    }
}

#[test]
fn with_mandatory_tls() {
    let endpoint = Endpoint::ok();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test", "127.0.0.1"]);
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap())
        .set("smtp.tls.require", true);
    let daemon = Daemon::start_in(dir, config);
    let postfix = Postfix::start(daemon.smtp(), "smtp_tls_security_level = encrypt\nsmtp_tls_loglevel = 1");
    postfix.submit("secret");
    postfix.wait_for(&["status=sent (250 2.0.0 Ok: "]);
    assert!(postfix.log().contains("TLSv1.3"), "{}", postfix.log());
    assert!(daemon.admin.records("")[0]["tls"].as_str().unwrap().starts_with("TLSv1.3 "));
}

/// Unknown recipients in front of good ones: these get the message at the first try.
#[test]
fn unknown_recipients_come_first() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::without_routes().route("some", &["good*@example.test"], &endpoint.url("/in")));
    let postfix = Postfix::start(daemon.smtp(), "");
    let unknown = (0..12).map(|n| format!("a{n}@example.test"));
    let recipients: Vec<String> = unknown.chain((0..3).map(|n| format!("good{n}@example.test"))).collect();
    let named: Vec<&str> = recipients.iter().map(String::as_str).collect();
    postfix.submit_between("alice@sender.test", &named, "to fifteen");
    for recipient in &recipients {
        let status = if recipient.starts_with("good") { "status=sent" } else { "status=bounced" };
        postfix.wait_for(&[&format!("to=<{recipient}>"), status]);
    }
    assert!(!postfix.log().contains("status=deferred"), "{}", postfix.log());
    let delivered = daemon.admin.records("outcome=delivered");
    assert_eq!((delivered.len(), &delivered[0]["recipients"]), (1, &recipients[12..].into()), "{delivered:?}");
}

/// Connections that are kept for the next message meet the limit of messages in between, and nothing is put off for it.
/// `MAILSLUICE_TEST_FULL=1`: 1 500 messages against the default limit.
#[test]
fn a_cached_connection_at_its_limit_defers_nothing() {
    let full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    let (messages, limit) = if full { (1500, 1000) } else { (60, 20) };
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("smtp.max_messages_per_connection", limit));
    let relay = daemon.smtp();
    let cache = format!("smtp_connection_cache_destinations = [{}]:{}\nsmtp_destination_concurrency_limit = 1", relay.ip(), relay.port());
    let postfix = Postfix::start(relay, &cache);
    for n in 0..messages {
        postfix.submit(&format!("message {n}"));
    }
    let sent = || postfix.log().matches("status=sent").count();
    let mut before = 0;
    while sent() < messages {
        // As long as it goes on, it may take its time.
        before = eventually("the next message", || Some(sent()).filter(|now| *now > before));
    }
    let log = postfix.log();
    assert!(!log.contains("status=deferred"), "{log}");
    assert!(log.contains("conn_use="), "no connection was used again:\n{log}");
    assert_eq!(endpoint.count(), messages);
}

/// The lines of the page for who has both for a day.
fn of_the_page(start: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docs/coming-from.md")).unwrap();
    page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} on the page")).to_owned()
}

/// Postfix stays on port 25 with its pipe, and the page's line hands one domain on.
#[test]
fn a_pipe_and_its_successor_for_a_day() {
    let status = Arc::new(AtomicU16::new(503));
    let script = Arc::clone(&status);
    let endpoint = Endpoint::with(move |_| Answer::status(script.load(Ordering::Relaxed))).start();
    let daemon = Daemon::start(
        Config::without_routes().route("pipe", &["*@tickets.example.com"], &endpoint.url("/inbound")).of_route("format", "rfc822"),
    );
    let maps = of_the_page("# /etc/postfix/transport, behind ");
    let maps = maps.split(" behind ").nth(1).unwrap().replace("/etc/postfix/", "@dir@/");
    let pipe = "old unix - n n - - pipe flags=FRO user=nobody argv=@dir@/pipe @dir@/arrived ${sender} ${recipient}\n";
    let extra = format!("relayhost =\ndefault_transport = old\nold_destination_recipient_limit = 1\n{maps}");
    let postfix = Postfix::start_with(daemon.smtp(), &extra, pipe);
    let at = |name: &str| postfix.dir.path().join(name);
    // Full, it says EX_TEMPFAIL.
    std::fs::write(at("pipe"), "#!/bin/sh\n[ -d \"$1\" ] || exit 75\ncat >\"$1/$3\" && echo \"$2\" >\"$1/sender\"\n").unwrap();
    std::fs::set_permissions(at("pipe"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = of_the_page("tickets.example.com ").replace("[127.0.0.1]:2525", &format!("[127.0.0.1]:{}", daemon.smtp().port()));
    assert!(line.contains(&daemon.smtp().port().to_string()), "{line}");
    std::fs::write(at("transport"), line).unwrap();
    run(Command::new(super::program("postmap")).arg("-c").arg(postfix.config()).arg(at("transport")), PATIENCE).ok();

    // Exit 75 and 503 mean the same: it waits in Postfix's queue.
    postfix.submit_between("alice@sender.test", &["it@tickets.example.com", "it@old.example.com"], "both ways");
    postfix.wait_for(&["to=<it@old.example.com>", "relay=old", "status=deferred"]);
    postfix.wait_for(&["to=<it@tickets.example.com>", "status=deferred", "450 4.3.0"]);
    std::fs::create_dir(at("arrived")).unwrap();
    std::fs::set_permissions(at("arrived"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    status.store(200, Ordering::Relaxed);
    postfix.run_empty();
    postfix.wait_for(&["to=<it@old.example.com>", "relay=old", "status=sent"]);
    postfix.wait_for(&["to=<it@tickets.example.com>", "status=sent (250 2.0.0 Ok: "]);

    // The same message but for the line ends and what the pipe's flags put before it, which are fields here.
    let piped = std::fs::read_to_string(at("arrived/it@old.example.com")).unwrap();
    let request = endpoint.requests().into_iter().last().unwrap();
    let posted = String::from_utf8(request.body.clone()).unwrap();
    assert!(piped.starts_with("From alice@sender.test "), "{piped}");
    let received = |text: &str| text[text.find("Received: ").unwrap()..].replace("\r\n", "\n").trim_end().to_owned();
    assert_eq!(received(&posted), received(&piped));
    assert!(posted.starts_with("Received: ") && posted.contains("\r\n.a line with a dot\r\n"), "{posted}");
    assert_eq!(request.field("mailsluice-mail-from"), std::fs::read_to_string(at("arrived/sender")).unwrap().trim_end());
    assert_eq!(request.field("mailsluice-rcpt-to"), "it@tickets.example.com");
    // The sender's address is Postfix's.
    assert_eq!((request.field("mailsluice-remote-ip"), request.field("mailsluice-helo")), ("127.0.0.1", "sender.test"));
}

/// The new one first, the old one behind it: what the new one puts off is brought to the old one at once, what it refuses is not.
#[test]
fn a_day_of_both() {
    let status = Arc::new(AtomicU16::new(200));
    let script = Arc::clone(&status);
    let (new, old) = (Endpoint::with(move |_| Answer::status(script.load(Ordering::Relaxed))).start(), Endpoint::ok());
    let (first, second) = (Daemon::start(Config::to(&new)), Daemon::start(Config::to(&old)));
    // Hosts in the order of their preference, as the MX records have them.
    let both = format!("relayhost = [127.0.0.1]:{}, [127.0.0.1]:{}", first.smtp().port(), second.smtp().port());
    let postfix = Postfix::start(first.smtp(), &both);
    postfix.submit("to the new one");
    postfix.run_empty();
    assert_eq!((new.count(), old.count()), (1, 0));
    status.store(503, Ordering::Relaxed);
    postfix.submit("put off by the new one");
    old.wait_for(1);
    postfix.run_empty();
    assert_eq!((first.admin.stat("messages.undelivered"), second.admin.stat("messages.delivered")), (1, 1));
    status.store(422, Ordering::Relaxed);
    postfix.submit("refused by the new one");
    postfix.wait_for(&["status=bounced", "554 5.7.1"]);
    assert_eq!(old.count(), 1);
}
