//! The inspector, in the development configuration: its ports are fixed, so it runs in a network of its own where that may be made.

use super::{Browser, clean};
use crate::support::admin::Admin;
use crate::support::client::deliver;
use crate::support::daemon::command;
use crate::support::process::{Process, enter_a_network_of_its_own, run};
use crate::support::{PATIENCE, eventually};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn the_inspector_shows_what_came_and_how_to_send_it_again() {
    let _turn = crate::support::turn::shared();
    std::thread::spawn(|| {
        enter_a_network_of_its_own();
        inspect();
    })
    .join()
    .unwrap();
}

/// A message that would run in a page, in a shell and in a terminal.
const HOSTILE: &str = "Subject: <script>window.hit=1</script>'; touch pwned; `touch pwned` $(touch pwned) \\0101 %s =?utf-8?Q?=1B[31m=E2=80=AE?=\r\n\
    X-Html: <img src=x onerror=window.hit=1>\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
    <img src=\"http://192.0.2.1/x\" onerror=\"window.hit=1\">'\"$(touch pwned)\r\n";

fn inspect() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(command().current_dir(dir.path()));
    process.lines.wait_for("the addresses", |line| line.contains("8025").then_some(()));
    let admin = Admin::new("127.0.0.1:8025");
    eventually("readiness", || admin.try_get("/readyz").is_ok_and(|answer| answer.status == 200).then_some(()));
    let origin = "http://127.0.0.1:8025";
    let browser = Browser::start();
    browser.open(&format!("{origin}/#inspector"));
    browser.wait_for_text("No request yet.");
    deliver("127.0.0.1:2525".parse().unwrap(), "a@sender.test", &["b@anywhere.test"], HOSTILE.as_bytes()).starts("250 ");
    // The request as it came: its envelope, its texts as texts, its headers.
    browser.wait_for_text("Send it again");
    let shown = browser.eval("document.querySelector('#request').innerText").as_str().unwrap().to_owned();
    for text in ["a@sender.test", "b@anywhere.test", "<script>window.hit=1</script>", "<img src=\"http://192.0.2.1/x\"", "webhook-id"] {
        assert!(shown.contains(text), "{text:?} in {shown}");
    }
    assert!(shown.contains("U+001B") && shown.contains("U+202E"), "what cannot be seen is written out: {shown}");
    assert_eq!(browser.eval("document.querySelectorAll('#request img, #request script, #log img, #log script').length"), 0);
    assert_eq!(browser.eval("window.hit === undefined"), true);
    // The line that is copied, run by a shell, sends the same octets again.
    browser
        .chromium("Browser.grantPermissions", &json!({"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}));
    browser.eval("document.querySelector('.curl button').click()");
    browser.wait_for_text("Copied");
    let line = browser.eval("navigator.clipboard.readText()").as_str().unwrap().to_owned();
    assert_eq!(browser.eval("document.querySelector('.curl pre').innerText"), line);
    let elsewhere = tempfile::tempdir().unwrap();
    let said = run(Command::new("sh").args(["-c", &line]).current_dir(elsewhere.path()), PATIENCE).ok();
    assert_eq!(said, "request 2 kept by the inspector\n");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing of the message ran");
    assert_eq!(admin.get("/inspector/requests/1/body").body, admin.get("/inspector/requests/2/body").body);
    let [first, second] = [1, 2].map(|number| admin.json(&format!("/inspector/requests/{number}")));
    let field = |request: &Value, name: &str| request["headers"].as_array().unwrap().iter().find(|pair| pair[0] == name).cloned();
    for name in ["content-type", "webhook-id", "webhook-timestamp", "user-agent"] {
        assert!(field(&first, name).is_some() && field(&first, name) == field(&second, name), "{name}: {first} {second}");
    }
    // It appears by itself, and an older one can be chosen again.
    eventually("both requests", || (browser.eval("document.querySelectorAll('#requests button').length") == 2).then_some(()));
    browser.eval("document.querySelector('#requests [data-number=\"1\"]').click()");
    eventually("the choice", || (browser.eval("document.querySelector('#requests [aria-current]').dataset.number") == "1").then_some(()));
    assert_eq!(browser.eval("window.hit === undefined"), true);
    // The next messages are answered as it is set there.
    browser.eval("void (document.querySelector('#next-answer').value = '422', document.querySelector('#next-answer').dispatchEvent(new Event('change')))");
    eventually("the setting", || (admin.json("/inspector/next")["status"] == 422).then_some(()));
    deliver("127.0.0.1:2525".parse().unwrap(), "a@sender.test", &["b@anywhere.test"], b"Subject: refuse-me\r\n\r\n").starts("554 ");
    eventually("its row", || {
        let rows = browser.eval("document.querySelector('#requests').innerText");
        rows.as_str().is_some_and(|rows| rows.contains("refuse-me to b@anywhere.test") && rows.contains("422")).then_some(())
    });
    // As it was sent, octet for octet; and a sample comes in by the same door as any mail.
    browser.eval("document.querySelector('#requests [data-number=\"1\"]').click()");
    eventually("the request", || (browser.eval("document.querySelector('#request [name=form]') !== null") == true).then_some(()));
    browser.eval("[...document.querySelectorAll('#request [name=form]')].at(-1).click()");
    let sent = String::from_utf8(admin.get("/inspector/requests/1/body").body).unwrap().replace('\u{202e}', "U+202E");
    eventually("the body", || (browser.eval("document.querySelector('#request .sent')?.textContent ?? ''") == sent.as_str()).then_some(()));
    browser.eval("void (document.querySelector('#next-answer').value = '200', document.querySelector('#next-answer').dispatchEvent(new Event('change')))");
    eventually("the setting", || (admin.json("/inspector/next")["status"] == 200).then_some(()));
    browser.eval("document.querySelector('#send-sample').click()");
    browser.wait_for_text("The sender was told: 250 2.0.0 Ok: ");
    browser.wait_for_text("A sample message");
    let newest = admin.records("").remove(0);
    assert_eq!(
        (&newest["sender"], &newest["outcome"], &newest["sender_ip"]),
        (&json!("sample@localhost"), &json!("delivered"), &json!("127.0.0.1"))
    );
    assert_eq!(admin.post("/inspector/sample", "text/plain", "").status, 415, "no form of another page sends one");
    clean(&browser, origin);
}
