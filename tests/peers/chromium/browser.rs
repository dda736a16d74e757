//! A real Chromium with one window, driven through ChromeDriver and its WebDriver protocol.

use crate::support::admin::Admin;
use crate::support::process::Process;
use serde_json::{Value, json};
use std::process::Command;

/// One browser with one window.
pub(super) struct Browser {
    driver: Admin,
    session: String,
    _process: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(super) fn start() -> Self {
        let mut command = Command::new(crate::peers::program("chromedriver"));
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
            "goog:chromeOptions": {"args": arguments, "binary": crate::peers::program("chromium")},
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

    pub(super) fn open(&self, url: &str) {
        self.call("url", &json!({"url": url}));
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub(super) fn eval(&self, expression: &str) -> Value {
        self.call("execute/sync", &json!({"script": format!("return ({expression});"), "args": []}))
    }

    /// Runs statements in the page; what they declare is there afterwards.
    #[track_caller]
    pub(super) fn run(&self, script: &str) {
        self.call("execute/sync", &json!({"script": script, "args": []}));
    }

    /// What statements give to `done`.
    #[track_caller]
    pub(super) fn eval_async(&self, script: &str) -> Value {
        self.call("execute/async", &json!({"script": format!("const done = arguments[0]; {script}"), "args": []}))
    }

    /// What a person sees.
    pub(super) fn text(&self) -> String {
        self.eval("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(super) fn wait_for_text(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(begun.elapsed() < crate::support::PATIENCE, "no {text:?} in\n{}", self.text());
            crate::support::wait::tick();
        }
    }

    /// Types into the element that a selector finds.
    #[track_caller]
    pub(super) fn type_into(&self, selector: &str, text: &str) {
        let element = self.call("element", &json!({"using": "css selector", "value": selector}));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.call(&format!("element/{id}/clear"), &json!({}));
        self.call(&format!("element/{id}/value"), &json!({"text": text}));
    }

    /// Presses keys one after another, as a keyboard does, wherever the focus is.
    #[track_caller]
    pub(super) fn press(&self, keys: &str) {
        let presses: Vec<Value> =
            keys.chars().flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]).collect();
        self.call("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": presses}]}));
    }

    #[track_caller]
    fn pointer(&self, actions: &[Value]) {
        let parameters = json!({"pointerType": "mouse"});
        self.call("actions", &json!({"actions": [{"type": "pointer", "id": "mouse", "parameters": parameters, "actions": actions}]}));
    }

    /// Moves the mouse to a place in the window.
    #[track_caller]
    pub(super) fn point(&self, x: u32, y: u32) {
        self.pointer(&[json!({"type": "pointerMove", "duration": 0, "x": x, "y": y})]);
    }

    /// Clicks where the mouse is.
    #[track_caller]
    pub(super) fn click(&self) {
        self.pointer(&[json!({"type": "pointerDown", "button": 0}), json!({"type": "pointerUp", "button": 0})]);
    }

    /// A command of Chromium's own protocol.
    #[track_caller]
    pub(super) fn chromium(&self, command: &str, parameters: &Value) -> Value {
        self.call("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The window of a phone, as a phone's browser has it.
    pub(super) fn become_a_phone(&self) {
        self.chromium("Emulation.setDeviceMetricsOverride", &json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true}));
    }

    /// The window that most desks have.
    pub(super) fn become_a_desk(&self) {
        self.chromium(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": false}),
        );
    }

    /// `light` or `dark`, as the reader's system says.
    pub(super) fn prefer(&self, scheme: &str) {
        self.chromium("Emulation.setEmulatedMedia", &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
    }

    /// The window as a PNG.
    pub(super) fn picture(&self) -> Vec<u8> {
        use base64::Engine as _;
        let picture = self.chromium("Page.captureScreenshot", &json!({"format": "png"}));
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// Console messages and security errors so far.
    pub(super) fn console(&self) -> Vec<Value> {
        self.call("se/log", &json!({"type": "browser"})).as_array().unwrap().clone()
    }

    /// Addresses of all requests so far.
    pub(super) fn requested(&self) -> Vec<String> {
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
