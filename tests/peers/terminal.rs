//! A terminal of 60 x 20, 80 x 24 and 120 x 40, by tmux: nothing wraps, and what is watched goes on over a restart.

use crate::support::client::deliver;
use crate::support::process::run;
use crate::support::{Answer, Config, Daemon, Endpoint, PATIENCE, eventually, messages, port};
use std::path::PathBuf;
use std::process::Command;

/// A window with the binary in it; its server ends with it.
struct Window {
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Window {
    fn of(columns: usize, rows: usize, words: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let window = Self { socket: dir.path().join("tmux"), _dir: dir };
        // It stays when the command has ended, to be looked at.
        let shell = format!("NO_COLOR= {} {words}; printf '\\n[ended %s]' $?; sleep 600", crate::support::daemon::BINARY);
        window.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns.to_string(), "-y", &rows.to_string(), &shell]);
        window
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new(super::program("tmux"));
        run(command.arg("-S").arg(&self.socket).args(words).env("LC_ALL", "C.UTF-8"), PATIENCE).ok()
    }

    /// Each row as it was written: one that wrapped is two here, and one with `joined`.
    fn rows(&self, joined: bool) -> Vec<String> {
        let text = self.tmux(if joined { &["capture-pane", "-p", "-J"] } else { &["capture-pane", "-p"] });
        text.lines().map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    /// The rows with this text among them, once none of them wraps. What is watched may be drawn anew between two looks.
    #[track_caller]
    fn shows(&self, text: &str) -> Vec<String> {
        let shown = || {
            let rows = Some(self.rows(false)).filter(|rows| rows.iter().any(|row| row.contains(text)))?;
            (rows.len() == self.rows(true).len()).then_some(rows)
        };
        eventually(&format!("{text:?}, and no row that wraps"), shown)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let server = Command::new(super::program("tmux")).arg("-S").arg(&self.socket).arg("kill-server").status();
        drop(server);
    }
}

#[test]
fn nothing_wraps_and_watching_goes_on() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::text(503, &"down for repair ".repeat(20))]);
    let config = Config::to(&endpoint)
        .set("smtp.listen", vec![format!("127.0.0.1:{}", port::free())])
        .set("admin.listen", format!("127.0.0.1:{}", port::free()));
    let daemon = Daemon::start(config.clone());
    for n in 0..3 {
        let subject = format!("{n} {}", "a long subject ".repeat(20));
        deliver(
            daemon.smtp(),
            "a@sender.test",
            &["somebody-with-a-long-name@a-long-domain.example.test"],
            &messages::simple(&subject, "text"),
        );
    }
    let admin = daemon.admin_url();
    for (columns, rows) in [(60, 20), (80, 24), (120, 40)] {
        let records = Window::of(columns, rows, &format!("records --admin {admin}")).shows("[ended 0]");
        let table = records.join("\n");
        for part in ["OUTCOME", "delivered", "deferred", "503", "…", "(the endpoint answered 503: down"] {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert_eq!(table.contains("ID"), columns == 120, "{table}");
        let report = Window::of(columns, rows, &format!("report --admin {admin}")).shows("[ended 0]");
        assert!(report.iter().any(|row| row.contains("2 try")), "{report:#?}");
        let help = Window::of(columns, rows, "records --help").shows("[ended 0]");
        assert!(help.iter().all(|row| row.chars().count() <= columns), "{help:#?}");
    }
    let windows =
        [(60, 20), (80, 24), (120, 40)].map(|(columns, rows)| Window::of(columns, rows, &format!("stats --watch --admin {admin}")));
    for window in &windows {
        let shown = window.shows("1 delivered");
        assert!(shown[0].starts_with("mailsluice ") && shown.iter().any(|row| row.starts_with("total")), "{shown:#?}");
    }
    let dir = daemon.shared_dir();
    assert_eq!(daemon.stop().code, Some(0));
    for window in &windows {
        window.shows("waiting until the daemon is back");
    }
    let _daemon = Daemon::start_in(dir, config);
    for window in &windows {
        window.shows("0 delivered");
        window.tmux(&["send-keys", "C-c"]);
        let left = window.shows("[ended 0]");
        assert!(!left.iter().any(|row| row.contains("delivered")), "the screen before is back: {left:#?}");
    }
}
