//! axe-core, which knows the rules of accessible pages, looks at each view in both schemes, on a desk and on a phone.

use super::Browser;
use crate::support::client::deliver;
use crate::support::process::{Process, enter_a_network_of_its_own};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, eventually, messages, port};
use std::path::{Path, PathBuf};

/// The script, as a module of `tests/peers.list` brings it.
#[track_caller]
fn axe() -> String {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/venv/lib");
    let pythons = std::fs::read_dir(&lib).unwrap_or_else(|error| panic!("{}: {error}: tests/test.sh makes it", lib.display()));
    let script = |python: std::fs::DirEntry| -> PathBuf { python.path().join("site-packages/axe_core_python/axe.min.js") };
    let script = pythons.map(|python| script(python.unwrap())).find(|path| path.exists()).expect("axe-core: tests/test.sh installs it");
    std::fs::read_to_string(script).unwrap()
}

/// What is wrong with the page as it stands, by rule and place.
fn violations(browser: &Browser) -> serde_json::Value {
    browser.eval_async(
        "axe.run(document, { resultTypes: ['violations'], preload: false })
            .then((result) => done(result.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.html)])))",
    )
}

/// What is done, and by what it is seen to be done.
pub(super) type Step = (&'static str, &'static str);

/// Opens the page on each kind of screen, in each scheme, and looks at each of its views: where some steps have led.
pub(super) fn look(browser: &Browser, url: &str, views: &[&[Step]]) {
    let axe = axe();
    for (scheme, phone) in [("light", false), ("dark", false), ("light", true), ("dark", true)] {
        browser.prefer(scheme);
        if phone {
            browser.become_a_phone();
        } else {
            browser.become_a_desk();
        }
        // Elsewhere first: a place on a page that is there already is no new page.
        browser.open("about:blank");
        browser.open(url);
        browser.run(&axe);
        for view in views {
            for (step, shown) in *view {
                browser.eval(&format!("void ({step})"));
                eventually(step, || (browser.eval(shown) == true).then_some(()));
            }
            // A page that has heard nothing for a while is pale, which may begin and end while it is looked at: what is wrong is seen twice.
            let pale = || browser.eval("document.body.classList.contains('lost')") == true;
            let mut before = None;
            let seen = eventually("a look at it while it hears", || {
                let seen = (!pale()).then(|| violations(browser)).filter(|_| !pale())?;
                let is_sure = seen == serde_json::json!([]) || before.as_ref() == Some(&seen);
                before = Some(seen.clone());
                is_sure.then_some(seen)
            });
            assert_eq!(seen, serde_json::json!([]), "{view:?}, {scheme}, phone: {phone}");
        }
    }
}

#[test]
fn no_view_of_the_page_shuts_anybody_out() {
    let endpoint = Endpoint::in_turn(vec![Answer::text(422, "no such ticket"), Answer::text(503, "not now"), Answer::status(200)]);
    let away = format!("http://127.0.0.1:{}/in", port::free());
    let config = Config::to(&endpoint).set("forward.breaker.failures", 1).set("forward.breaker.cooldown", "600s");
    let daemon = Daemon::start(config.route("away", &["x@away.test"], &away).reversed_routes());
    for n in 0..3 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test", "c@example.test"], &messages::simple(&n.to_string(), "text"));
    }
    deliver(daemon.smtp(), "", &["x@away.test"], &messages::simple("away", "text")).starts("45");
    let mut client = Client::connect(daemon.smtp());
    client.expect("RCPT TO:<x@away.test>", "503 ");
    // What is filled when it is looked at.
    let page: [Step; 4] = [
        ("document.querySelector('#report').scrollIntoView()", "document.querySelectorAll('#causes .outcome').length >= 4"),
        ("document.querySelector('#refused').scrollIntoView()", "document.querySelectorAll('#refusal-rows time').length >= 1"),
        ("document.querySelector('#over-time details').open = true", "document.querySelectorAll('#series-table tr').length >= 1"),
        (
            "scrollTo(0, 0)",
            "document.querySelector('#route-rows .breaker') !== null && document.querySelectorAll('#trouble a').length === 1",
        ),
    ];
    let record: [Step; 1] = [(
        "document.querySelector('#records a').click()",
        "document.querySelector('#detail dl') !== null && document.querySelector('#detail').open",
    )];
    let forget: [Step; 1] =
        [("document.querySelector('#detail .actions button:last-child').click()", "document.querySelector('#forget').open")];
    look(&Browser::start(), &format!("{}/", daemon.admin_url()), &[&page, &record, &forget]);
}

#[test]
fn nor_do_the_sign_in_and_the_inspector() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("token"), "secret").unwrap();
    let daemon = Daemon::start_in(dir.clone(), Config::to(&endpoint).set("admin.token_file", dir.path().join("token").to_str().unwrap()));
    let signed_out: [Step; 1] = [("0", "!document.querySelector('#sign-in').hidden")];
    look(&Browser::start(), &format!("{}/", daemon.admin_url()), &[&signed_out]);
    drop(daemon);

    // Its ports are fixed: in a network of its own.
    let _turn = crate::support::turn::shared();
    std::thread::spawn(|| {
        enter_a_network_of_its_own();
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(crate::support::daemon::command().current_dir(dir.path()));
        process.lines.wait_for("the addresses", |line| line.contains("see it arrive").then_some(()));
        let browser = Browser::start();
        let sample: [Step; 1] = [("document.querySelector('#send-sample').click()", "document.querySelector('#request .forms') !== null")];
        let as_sent: [Step; 1] =
            [("document.querySelector('#request [name=form]:not(:checked)').click()", "document.querySelector('#request .sent') !== null")];
        look(&browser, "http://127.0.0.1:8025/", &[&sample, &as_sent]);
    })
    .join()
    .unwrap();
}
