//! A real Chromium drives the page, through ChromeDriver and its WebDriver protocol.

use crate::support::admin::Admin;
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::process::Process;
use crate::support::{Answer, Config, Daemon, Endpoint, eventually, messages};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// One browser with one window.
struct Browser {
    driver: Admin,
    session: String,
    _process: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let mut command = Command::new(super::program("chromedriver"));
        command.args(["--port=0", "--allowed-ips=127.0.0.1"]);
        let process = Process::start(&mut command);
        let port: u16 = process
            .lines
            .wait_for("ChromeDriver's port", |line| line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        let driver = Admin::new(&format!("127.0.0.1:{port}"));
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,1400",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments, "binary": super::program("chromium")},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let answer = driver.post("/session", "application/json", &capabilities.to_string());
        let session = answer.json()["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned();
        Self { driver, session, _process: process, _profile: profile }
    }

    #[track_caller]
    fn call(&self, path: &str, body: &Value) -> Value {
        let answer = self.driver.post(&format!("/session/{}/{path}", self.session), "application/json", &body.to_string());
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["value"].take()
    }

    fn open(&self, url: &str) {
        self.call("url", &json!({"url": url}));
    }

    /// The value of an expression in the page.
    #[track_caller]
    fn eval(&self, expression: &str) -> Value {
        self.call("execute/sync", &json!({"script": format!("return ({expression});"), "args": []}))
    }

    /// What a person sees.
    fn text(&self) -> String {
        self.eval("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn wait_for_text(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(begun.elapsed() < crate::support::PATIENCE, "no {text:?} in\n{}", self.text());
            crate::support::wait::tick();
        }
    }

    /// Types into the element that a selector finds.
    #[track_caller]
    fn type_into(&self, selector: &str, text: &str) {
        let element = self.call("element", &json!({"using": "css selector", "value": selector}));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.call(&format!("element/{id}/clear"), &json!({}));
        self.call(&format!("element/{id}/value"), &json!({"text": text}));
    }

    /// Console messages and security errors so far.
    fn console(&self) -> Vec<Value> {
        self.call("se/log", &json!({"type": "browser"})).as_array().unwrap().clone()
    }

    /// Addresses of all requests so far.
    fn requested(&self) -> Vec<String> {
        let log = self.call("se/log", &json!({"type": "performance"}));
        log.as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| {
                let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
                (message["message"]["method"] == "Network.requestWillBeSent")
                    .then(|| message["message"]["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
            })
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser as well as the session.
        let head = format!("DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.session, self.driver.host());
        let _ = self.driver.request(&head, b"");
    }
}

/// No console error, no policy violation, nothing asked of another origin.
#[track_caller]
fn clean(browser: &Browser, daemon: &Daemon) {
    let severe: Vec<Value> = browser.console().into_iter().filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG").collect();
    assert!(severe.is_empty(), "{severe:?}");
    let origin = daemon.admin_url();
    let requested = browser.requested();
    assert!(!requested.is_empty());
    for url in requested {
        assert!(url.starts_with(&origin) || url.starts_with("data:") || url.starts_with("chrome") || url.starts_with("about:"), "{url}");
    }
}

#[test]
fn the_page_under_load() {
    let endpoint =
        Endpoint::with(
            |request| if request.body.windows(4).any(|w| w == b"DENY") { Answer::text(422, "denied") } else { Answer::status(200) },
        )
        .start();
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "first@sender.test", &["bob@example.test"], &messages::simple("needle-in-a-haystack", "text")).starts("250 ");
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("needle-in-a-haystack");
    // Rows come by themselves while mail flows.
    let outcome = load::run(&Load { senders: 2, ..Load::new(daemon.smtp(), 60) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 60);
    deliver(daemon.smtp(), "live@sender.test", &["bob@example.test"], &messages::simple("came-live", "DENY")).starts("554 ");
    browser.wait_for_text("came-live");
    // Search narrows the log to what was asked for.
    browser.type_into("input[type=search]", "needle-in");
    eventually("the search's result", || {
        let text = browser.text();
        (text.contains("needle-in-a-haystack") && !text.contains("came-live")).then_some(())
    });
    // A row opens its record, with all attempts of its message.
    let id = daemon.admin.records("sender=first@sender.test").remove(0)["id"].as_str().unwrap().to_owned();
    browser.eval(&format!("void (location.hash = 'record={id}')"));
    eventually("the record's detail", || {
        let open = browser.eval("document.querySelector('#detail').open") == true;
        let text = browser.eval("document.querySelector('#detail').innerText");
        (open && text.as_str().is_some_and(|text| text.contains(&id) && text.contains("first@sender.test"))).then_some(())
    });
    clean(&browser, &daemon);
}

#[test]
fn hostile_fields_are_shown_as_text() {
    let endpoint = Endpoint::always(Answer::text(200, "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"));
    let daemon = Daemon::start(Config::to(&endpoint));
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    let hostile = [
        "<script>window.hit=1</script>",
        "<img src=x onerror=window.hit=1>",
        "\"><svg onload=window.hit=1>",
        "javascript:window.hit=1",
        "{{constructor.constructor('window.hit=1')()}}",
    ];
    for subject in hostile {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: {subject}\r\n\r\n").as_bytes()).starts("250 ");
        browser.wait_for_text(subject);
    }
    let bidi = "=?utf-8?Q?=E2=80=AEgnp.exe=00=07?=";
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: marker {bidi}\r\n\r\n").as_bytes()).starts("250 ");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: {}\r\n\r\n", "long ".repeat(199)).as_bytes())
        .starts("250 ");
    browser.wait_for_text("marker");
    browser.wait_for_text("long long");
    assert_eq!(browser.eval("window.hit === undefined"), true);
    // The page keeps its width, whatever a subject's length.
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= window.innerWidth"), true);
    clean(&browser, &daemon);
}
