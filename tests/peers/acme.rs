//! Certificates by certbot and by lego, with the command lines of `packaging/docs/tls.md` and the package's hook, from an authority
//! that speaks ACME: pebble, which looks the name up and asks for the challenge over HTTP as the public ones do.

use crate::support::certificates::Authority;
use crate::support::process::{Process, run};
use crate::support::{Config, Daemon, Endpoint, PATIENCE, eventually, eventually_within, port};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The paths that the page and the hook name.
const HOOK: &str = "/usr/lib/mailsluice/install-certificate";
const INSTALLED: &str = "/etc/mailsluice/tls";

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

struct Pebble {
    dir: tempfile::TempDir,
    /// Where it asks for challenges.
    http: u16,
    acme: u16,
    management: u16,
    processes: Vec<Process>,
}

impl Pebble {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [http, tls, acme, management, dns, dns_management] = std::array::from_fn(|_| port::free());
        let authority = Authority::new();
        let own = authority.issue_into(dir.path(), "pebble", &["localhost"]);
        std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": own.certificate, "privateKey": own.key, "httpPort": http, "tlsPort": tls,
        }});
        let file = dir.path().join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        // Every name is this machine.
        let mut names = Command::new(super::program("pebble-challtestsrv"));
        names.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{dns_management}")]);
        let mut pebble = Command::new(super::program("pebble"));
        pebble.arg("-config").arg(&file).args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        // It would wait, and refuse nonces, now and then, to try the patience of clients.
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        let pebble = Self { dir, http, acme, management, processes: vec![Process::start(&mut names), Process::start(&mut pebble)] };
        eventually("pebble", || pebble.get("roots/0").filter(|pem| pem.contains("BEGIN CERTIFICATE")));
        pebble
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.acme)
    }

    fn get(&self, what: &str) -> Option<String> {
        let mut curl = Command::new(super::program("curl"));
        curl.args(["--silent", "--fail", "--noproxy", "*", "--cacert"]).arg(self.path("authority.pem"));
        let answer = run(curl.arg(format!("https://localhost:{}/{what}", self.management)), PATIENCE);
        (answer.code == Some(0)).then_some(answer.out)
    }

    /// The package's hook, for a directory and a group that are here.
    fn hook(&self) -> PathBuf {
        let path = self.path("install-certificate");
        let script = file("packaging/install-certificate");
        assert!(script.contains(INSTALLED) && script.contains("-g mailsluice"), "{script}");
        let script = script.replace(INSTALLED, self.path("tls").to_str().unwrap()).replace("-g mailsluice", "-g root");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A line of the page that starts like this, with further arguments before and behind what it names.
    #[track_caller]
    fn run_line(&self, start: &str, before: &[&str], behind: &[&str]) {
        let page = file("packaging/docs/tls.md");
        let line = page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} on the page"));
        let line = line.replace(HOOK, self.hook().to_str().unwrap()).replace("/etc/lego", self.path("lego").to_str().unwrap());
        let mut words = line.split_whitespace();
        let mut command = Command::new(super::program(words.next().unwrap()));
        command.args(before).args(words).args(behind);
        self.finish(&mut command);
    }

    #[track_caller]
    fn finish(&self, command: &mut Command) {
        let authority = self.path("authority.pem");
        command.env("REQUESTS_CA_BUNDLE", &authority).env("LEGO_CA_CERTIFICATES", &authority).env("NO_PROXY", "*").env("no_proxy", "*");
        run(command, Duration::from_secs(120)).ok();
    }
}

/// The first certificate in a text.
fn first_certificate(text: &str) -> Option<&str> {
    let end = "-----END CERTIFICATE-----";
    let text = &text[text.find("-----BEGIN CERTIFICATE-----")?..];
    Some(&text[..text.find(end)? + end.len()])
}

/// What a sender who looks closely sees, by the page's command; only a certificate that the authority's root vouches for.
fn served(daemon: &Daemon, root: &Path) -> Option<String> {
    let page = file("packaging/docs/tls.md");
    let line = page.lines().find(|line| line.starts_with("openssl s_client ")).unwrap();
    let line = line.replace("-connect mx.example.com:25", &format!("-connect {}", daemon.smtp())).replace(" </dev/null", "");
    let mut words = line.split_whitespace();
    let mut command = Command::new(super::program(words.next().unwrap()));
    command.args(words).args(["-verify_return_error", "-verify_hostname", "mx.example.com", "-CAfile"]).arg(root);
    let finished = run(&mut command, PATIENCE);
    (finished.code == Some(0)).then(|| first_certificate(&finished.out).unwrap().to_owned())
}

#[test]
fn certbot_and_lego_bring_and_renew_it() {
    let mut pebble = Pebble::start();
    let http = pebble.http.to_string();
    let [config, work, logs] = ["certbot", "work", "logs"].map(|name| pebble.path(name).to_str().unwrap().to_owned());
    let places = ["--config-dir", &config, "--work-dir", &work, "--logs-dir", &logs, "-n"];
    let server = pebble.directory();
    let first = ["--agree-tos", "-m", "you@example.com", "--server", &server, "--http-01-port", &http];
    pebble.run_line("certbot certonly ", &[], &[&places[..], &first[..]].concat());

    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint)
        .set("smtp.hostname", "mx.example.com")
        .set("smtp.tls.certificate", pebble.path("tls/fullchain.pem").to_str().unwrap())
        .set("smtp.tls.private_key", pebble.path("tls/privkey.pem").to_str().unwrap());
    let daemon = Daemon::start(config);
    let root = pebble.path("root.pem");
    std::fs::write(&root, pebble.get("roots/0").unwrap()).unwrap();
    let mut last = served(&daemon, &root).unwrap();
    let is_renewed = |last: &mut String, who: &str| {
        let installed = std::fs::read_to_string(pebble.path("tls/fullchain.pem")).unwrap();
        let installed = first_certificate(&installed).unwrap().to_owned();
        assert_ne!(installed, *last, "{who} installed nothing new");
        // No signal: the files are watched.
        eventually_within(Duration::from_secs(90), who, || (served(&daemon, &root)? == installed).then_some(()));
        *last = installed;
    };

    let mut renew = Command::new(super::program("certbot"));
    // As certbot.timer does, without its random sleep, and before it is due.
    pebble.finish(renew.args(["renew", "--no-random-sleep-on-renew", "--force-renewal"]).args(places));
    is_renewed(&mut last, "certbot renew");

    let http = format!(":{http}");
    let common = ["--server", &server, "--http.port", &http];
    pebble.run_line("lego --path /etc/lego --email you@example.com --domains mx.example.com --http --accept-tos run", &common, &[]);
    is_renewed(&mut last, "lego run");
    // Before it is due, and without its random delay.
    let at_once = ["--days", "9999", "--no-random-sleep"];
    pebble.run_line("lego --path /etc/lego --email you@example.com --domains mx.example.com --http renew", &common, &at_once);
    is_renewed(&mut last, "lego renew");

    // The authority is away: neither brings anything, both say so, and what is there goes on serving.
    pebble.processes.clear();
    let installed = || ["privkey.pem", "fullchain.pem"].map(|name| std::fs::read(pebble.path("tls").join(name)).unwrap());
    let before = installed();
    let mut renew = Command::new(super::program("certbot"));
    renew
        .args(["renew", "--no-random-sleep-on-renew", "--force-renewal"])
        .args(places)
        .env("REQUESTS_CA_BUNDLE", pebble.path("authority.pem"));
    assert_ne!(run(&mut renew, Duration::from_secs(120)).code, Some(0), "certbot renews without an authority");
    // And a hook that finds one file of the two changes neither.
    let half = pebble.path("half");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("privkey.pem"), "half of a renewal").unwrap();
    let hooked = run(Command::new(pebble.hook()).env("RENEWED_LINEAGE", &half), PATIENCE);
    assert_ne!(hooked.code, Some(0), "{hooked:?}");
    assert_eq!(installed(), before);
    assert_eq!(served(&daemon, &root), Some(last));
}
