//! Exim and OpenSMTPD as sending servers. Debian lets only one mail server be installed, which is Postfix here: these two are unpacked, and run
//! in a mount namespace that has their users and an empty spool.

use super::senders::{self, FROM, TO};
use crate::support::process::run;
use crate::support::{Config, Daemon, Endpoint, PATIENCE};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `sh -c ENTER sh DIRECTORY COMMAND…`.
const ENTER: &str = "set -e; dir=$1; shift; mount --make-rprivate /
for user in Debian-exim:61001 opensmtpd:61002 opensmtpq:61003; do
    echo \"${user%:*}:x:${user#*:}:${user#*:}::/:/bin/false\" >>\"$dir/users\"; echo \"${user%:*}:x:${user#*:}:\" >>\"$dir/groups\"
done
cat /etc/passwd >>\"$dir/users\"; cat /etc/group >>\"$dir/groups\"
mount --bind \"$dir/users\" /etc/passwd; mount --bind \"$dir/groups\" /etc/group
for place in /var/spool /var/lib /run; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p /var/lib/opensmtpd/empty; mkdir -m 711 /var/spool/smtpd
exec \"$@\"";

fn program(package: &str, path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/deb").join(package).join(path);
    assert!(path.exists(), "{} is not there: tests/test.sh unpacks what the tests need", path.display());
    path
}

/// Sends with each pair of addresses by a script that reads them from `pairs`, given its directory and the relay.
#[track_caller]
fn each_arrives(pairs: &[(&str, &str)], prepare: impl Fn(&Path, SocketAddr) -> String) {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let dir = tempfile::Builder::new().prefix("relay").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let lines: String = pairs.iter().map(|(from, to)| format!("{from} {to}\n")).collect();
    std::fs::write(dir.path().join("pairs"), lines).unwrap();
    std::fs::write(dir.path().join("message"), senders::MESSAGE.replace("\r\n", "\n")).unwrap();
    let script = prepare(dir.path(), daemon.smtp());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", ENTER, "sh"]).arg(dir.path()).args(["sh", "-c", &format!("cd $1; {script}"), "sh"]).arg(dir.path());
    let sent = run(&mut command, 4 * PATIENCE);
    let mut arrived: Vec<(String, String)> = Vec::new();
    for record in daemon.admin.records("") {
        let recipient = record["recipients"][0].as_str().unwrap_or_default();
        arrived.push((record["sender"].as_str().unwrap_or_default().to_owned(), recipient.to_owned()));
        assert_eq!(record["outcome"], "delivered");
    }
    arrived.sort();
    let mut expected: Vec<(String, String)> = pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    expected.sort();
    assert_eq!(arrived, expected, "{}{}", sent.out, sent.err);
    for request in endpoint.requests() {
        assert!(String::from_utf8_lossy(&request.body).replace('\r', "").contains("hi\n.dot\n"));
    }
}

fn pairs() -> Vec<(&'static str, &'static str)> {
    FROM.into_iter().zip(TO).collect()
}

/// It delivers while it is called, in chunks.
#[test]
fn exim() {
    let exim = program("exim4-daemon-light", "usr/sbin/exim4");
    each_arrives(&pairs(), |dir, relay| {
        let at = dir.display();
        let config = format!(
            "exim_path = {exim}\nspool_directory = {at}/spool\nlog_file_path = {at}/spool/%slog\nprimary_hostname = sender.test\n\
             disable_ipv6 = true\nkeep_environment =\nbegin routers\nout:\n  driver = manualroute\n  domains = *\n\
             \x20 route_list = * {ip} byname\n  self = send\n  transport = smtp\nbegin transports\nsmtp:\n  driver = smtp\n\
             \x20 port = {port}\n  allow_localhost\n  hosts_try_chunking = *\n",
            exim = exim.display(),
            ip = relay.ip(),
            port = relay.port(),
        );
        std::fs::write(dir.join("exim.conf"), config).unwrap();
        // Read again by its own user.
        std::fs::set_permissions(dir.join("exim.conf"), std::fs::Permissions::from_mode(0o644)).unwrap();
        format!(
            "install -d -o Debian-exim -g Debian-exim spool; while read -r from to; do {} -C $1/exim.conf -odf -oi -f \"$from\" \"$to\" <message; done \
             <pairs; cat spool/mainlog >&2",
            exim.display()
        )
    });
}

/// Its daemon takes messages from the command line and relays them. Two dots side by side it refuses itself.
#[test]
fn opensmtpd() {
    let (daemon, client) = (program("opensmtpd", "usr/sbin/smtpd"), program("opensmtpd", "usr/sbin/smtpctl"));
    let pairs: Vec<_> = pairs().into_iter().filter(|(from, _)| !from.contains("..")).collect();
    each_arrives(&pairs, |dir, relay| {
        let rules = format!("action out relay host smtp://{}:{}\nmatch from any for any action out\n", relay.ip(), relay.port());
        std::fs::write(dir.join("smtpd.conf"), rules).unwrap();
        std::fs::set_permissions(dir.join("smtpd.conf"), std::fs::Permissions::from_mode(0o600)).unwrap();
        // Its client is the group's that owns the offline queue. Whether all are sent is read in the daemon's log.
        format!(
            "install -g opensmtpq -m 2755 {client} sendmail; {daemon} -dv -f $1/smtpd.conf >log 2>&1 & daemon=$!\n\
             until [ -S /run/smtpd.sock ] && grep -q 'setup done' log || ! kill -0 $daemon; do sleep 0.1; done\n\
             while read -r from to; do ./sendmail -f \"$from\" \"$to\" <message; done <pairs\n\
             until [ $(grep -c 'mta delivery' log) -ge {count} ] || ! kill -0 $daemon || [ $((waited += 1)) -gt 600 ]; do sleep 0.1; done\n\
             kill $daemon; cat log >&2",
            client = client.display(),
            daemon = daemon.display(),
            count = pairs.len(),
        )
    });
}
