//! What the page tells of routes, causes, refusals and time, and what may be done there.

use super::{Browser, clean, look_at_the_log};
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Client, Config, Daemon, Endpoint, eventually, messages, port};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};

fn text_of(browser: &Browser, selector: &str) -> String {
    browser.eval(&format!("document.querySelector('{selector}')?.innerText ?? ''")).as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn shows(browser: &Browser, selector: &str, parts: &[&str]) {
    eventually(&format!("{selector}: {parts:?}"), || {
        let text = text_of(browser, selector);
        parts.iter().all(|part| text.contains(part)).then_some(())
    });
}

#[test]
fn routes_causes_and_refusals() {
    let answers = vec![Answer::status(200), Answer::text(422, "no ticket 4711"), Answer::text(422, "no ticket 17")];
    let endpoint = Endpoint::in_turn(answers);
    let away = format!("http://user:hidden@127.0.0.1:{}/in?token=hidden", port::free());
    let config = Config::without_routes()
        .route("zebra", &["*@example.test"], &endpoint.url("/in"))
        .of_route("format", "rfc822")
        .route("aardvark", &["*@away.test"], &away)
        .set("forward.breaker.failures", 1)
        .set("forward.breaker.cooldown", "600s");
    let daemon = Daemon::start(config);
    for n in 0..4 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("z{n}"), "text"));
    }
    deliver(daemon.smtp(), "a@sender.test", &["b@away.test"], &messages::simple("lost", "text")).starts("45");
    let mut client = Client::connect(daemon.smtp());
    client.ehlo();
    client.expect("MAIL FROM:<stranger@sender.test>", "250 ");
    client.expect("RCPT TO:<nobody@elsewhere.test>", "550 ");
    client.quit();
    let browser = Browser::start();
    browser.become_a_desk();
    browser.open(&format!("{}/", daemon.admin_url()));
    // In the file's order, with shares, the breaker's next try, and no secret.
    shows(&browser, "#route-rows tr:nth-child(1)", &["zebra", "*@example.test", "25", "of 4", "/in"]);
    shows(&browser, "#route-rows tr:nth-child(2)", &["aardvark", "0\u{202f}% of 1", "token=…", "next try in"]);
    assert_eq!(browser.eval("document.querySelector('#routes').getBoundingClientRect().top < innerHeight"), true);
    assert!(!browser.text().contains("hidden"), "{}", browser.text());
    browser.eval("void document.querySelector('#report').scrollIntoView()");
    shows(&browser, "#causes", &["no ticket …", "rejected", "3", "Connection refused", "1 try again", "550 5.1.1", "refused", "aardvark"]);
    browser.eval("void document.querySelector('#refused').scrollIntoView()");
    shows(&browser, "#refusal-rows", &["127.0.0.1", "stranger@sender.test", "nobody@elsewhere.test", "550 5.1.1"]);
    browser.type_into("#refused-find", "no such thing");
    shows(&browser, "#refusal-rows", &["No refusal matches."]);
    browser.type_into("#refused-find", "NOBODY@");
    shows(&browser, "#refusal-rows", &["nobody@elsewhere.test"]);
    // On paper: all that is said, nothing to press. With the reader's own colours the state stands out by its frame.
    let sheet = json!({"width": 1046, "height": 740, "deviceScaleFactor": 1, "mobile": false});
    browser.chromium("Emulation.setDeviceMetricsOverride", &sheet);
    browser.chromium("Emulation.setEmulatedMedia", &json!({"media": "print"}));
    let drawn = |one: &str| browser.eval(&format!("document.querySelector('{one}').getClientRects().length > 0")) == true;
    for said in ["#route-rows th .value", "#causes .value", "#state", "#trouble a", "#refusal-rows time"] {
        assert!(drawn(said), "{said} is not on paper");
    }
    let cut_off = "[...document.querySelectorAll('th, td')].filter((cell) => cell.getClientRects().length
        && cell.getBoundingClientRect().right > innerWidth + 1).map((cell) => cell.outerHTML)";
    assert_eq!(browser.eval(cut_off), json!([]), "a sheet cannot be scrolled");
    for control in [".top nav", "#filters", "#trouble button"] {
        assert!(!drawn(control), "{control} is on paper");
    }
    browser.chromium("Emulation.setEmulatedMedia", &json!({"media": "", "features": [{"name": "forced-colors", "value": "active"}]}));
    assert_eq!(browser.eval("getComputedStyle(document.querySelector('#state')).borderTopStyle"), "solid");
    clean(&browser, &daemon.admin_url());
}

#[test]
fn mail_over_time_survives_a_restart() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..3 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("before-{n}"), "text")).starts("250 ");
    }
    let daemon = daemon.kill().restart();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("behind", "text")).starts("250 ");
    for span in ["hour", "day"] {
        let series = daemon.admin.json(&format!("/series?span={span}&route=all"));
        let sum: u64 = series["points"].as_array().unwrap().iter().map(|point| point["delivered"].as_u64().unwrap()).sum();
        assert_eq!((sum, &series["complete"]), (4, &true.into()), "{series}");
        assert_eq!(daemon.admin.json(&format!("/series?span={span}&route=other"))["points"], serde_json::json!([]));
    }
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    // The running minute is there, with its axes.
    for span in ["hour", "day"] {
        browser.eval(&format!("document.querySelector('[name=span][value={span}]').click()"));
        eventually("bars", || (browser.eval("document.querySelectorAll('#traffic-plot .bar.delivered').length > 0") == true).then_some(()));
        let label = format!("the last {span}: 4 delivered");
        eventually(&label, || {
            let shown = browser.eval("document.querySelector('#traffic-plot svg').getAttribute('aria-label')");
            shown.as_str().is_some_and(|shown| shown.contains(&label)).then_some(())
        });
        let axes = browser.eval("[...document.querySelectorAll('#traffic-plot .axis')].map((node) => node.textContent).join()");
        assert!(axes.as_str().is_some_and(|axes| axes.contains("time of day, ") && axes.contains("messages / ")), "{axes}");
    }
    eventually("the route to choose", || (browser.eval("document.querySelector('#series-route').options.length") == 2).then_some(()));
    clean(&browser, &daemon.admin_url());
}

#[test]
fn an_address_is_exported_and_forgotten() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for sender in ["ann@sender.test", "bob@sender.test"] {
        deliver(daemon.smtp(), sender, &["to@example.test"], &messages::simple(sender, "text")).starts("250 ");
    }
    let browser = Browser::start();
    browser.open(&format!("{}/?sender=ann@sender.test", daemon.admin_url()));
    eventually("her record", || (browser.eval("document.querySelectorAll('#records tr').length") == 1).then_some(()));
    browser.eval("document.querySelector('#records a').click()");
    browser.wait_for_text("The only attempt at this message");
    let button = |name: &str| {
        format!(
            "[...document.querySelectorAll('#detail button')].find((node) => node.getAttribute('aria-label') === '{name} ann@sender.test')"
        )
    };
    browser.eval("void (window.saved = '', URL.createObjectURL = (blob) => (blob.text().then((text) => (window.saved = text)), 'data:,'))");
    browser.eval(&format!("{}.click()", button("Export the records of")));
    eventually("the export", || browser.eval("window.saved").as_str().is_some_and(|text| text.contains("ann@sender.test")).then_some(()));
    // Nothing happens before it is confirmed.
    browser.eval(&format!("{}.click()", button("Forget")));
    shows(&browser, "#forget", &["ann@sender.test", "cannot be undone"]);
    browser.eval("document.querySelector('#forget-no').click()");
    assert_eq!(daemon.admin.records("sender=ann@sender.test").len(), 1);
    browser.eval(&format!("{}.click()", button("Forget")));
    browser.eval("document.querySelector('#forget-yes').click()");
    shows(&browser, "#forget-note", &["Erased from 1 record."]);
    assert_eq!(daemon.admin.records("sender=ann@sender.test").len(), 0);
    assert_eq!(daemon.admin.records("sender=bob@sender.test").len(), 1);
    clean(&browser, &daemon.admin_url());
}

#[test]
fn each_search_is_in_the_address_and_back() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::text(422, "no")]);
    let daemon = Daemon::start(Config::to(&endpoint));
    deliver(daemon.smtp(), "jürgen@bücher.test".replace('ü', "u").as_str(), &["b@example.test"], &messages::simple("first-one", "text"));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("second-one", "text"));
    let browser = Browser::start();
    browser.become_a_desk();
    browser.open(&format!("{}/", daemon.admin_url()));
    let rows = |n: u64| {
        eventually(&format!("{n} rows"), || (browser.eval("document.querySelectorAll('#records time').length") == n).then_some(()))
    };
    let search = |part: &str| {
        eventually(part, || browser.eval("location.search").as_str().is_some_and(|search| search == part).then_some(()));
    };
    rows(2);
    browser.type_into("input[type=search][name=text]", "first-");
    search("?text=first-");
    rows(1);
    // A click on a value is a search by it; the one before is a step back.
    browser.eval("document.querySelector('#records a').click()");
    browser.wait_for_text("The only attempt at this message");
    browser.eval("[...document.querySelectorAll('#detail .value')].find((node) => node.innerText === 'b@example.test').click()");
    search("?recipient=b%40example.test");
    rows(2);
    browser.eval("void history.back()");
    search("?text=first-");
    eventually("the field", || (browser.eval("document.querySelector('[name=text]').value") == "first-").then_some(()));
    rows(1);
    // A time of the reader's own clock is a moment in the address, and a time again after a reload.
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.type_into("[name=until]", "2020-01-31 12:00");
    eventually("the moment", || {
        browser.eval("location.search").as_str().is_some_and(|search| search.starts_with("?until=20") && search.contains("Z")).then_some(())
    });
    browser.wait_for_text("No record matches.");
    let address = browser.eval("location.href").as_str().unwrap().to_owned();
    browser.open("about:blank");
    browser.open(&address);
    assert_eq!(browser.eval("document.querySelector('[name=until]').value"), "2020-01-31 12:00:00");
    // Another zone under an open page: its times, and what they are called, are of that one.
    browser.open(&format!("{}/", daemon.admin_url()));
    rows(2);
    browser.chromium("Emulation.setTimezoneOverride", &json!({"timezoneId": "Asia/Kathmandu"}));
    eventually("its name", || text_of(&browser, "#zone").contains("GMT+5:45").then_some(()));
    let right = "[...document.querySelectorAll('#records time')].every((node) => node.innerText === clock(node.dateTime).innerText)";
    assert_eq!(browser.eval(right), true);
    clean(&browser, &daemon.admin_url());
}

#[test]
fn eight_clicks_of_eight_are_right_while_mail_flows() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..12 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("row-{n}"), "text")).starts("250 ");
    }
    let browser = Browser::start();
    browser.become_a_desk();
    browser.open(&format!("{}/#log", daemon.admin_url()));
    browser.wait_for_text("row-0");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mail = scope.spawn(|| load::run(&Load { senders: 1, ..Load::new(daemon.smtp(), 100_000) }, &stop));
        let aim = || {
            for nth in 0..8 {
                // Out of the log new rows come; then the pointer goes to one, and the hand takes its time.
                browser.point(3, 300);
                let before = daemon.admin.stat("messages.delivered");
                eventually("more mail", || (daemon.admin.stat("messages.delivered") > before + 10).then_some(()));
                browser.eval("void document.querySelector('#records').scrollIntoView({ block: 'start' })");
                browser.point(500, 260 + 24 * nth);
                let aimed =
                    browser.eval(&format!("document.elementFromPoint(500, {}).closest('#records tr')?.dataset.id ?? null", 260 + 24 * nth));
                assert!(aimed.is_string(), "the pointer is on a row");
                let before = daemon.admin.stat("messages.delivered");
                eventually("more mail", || (daemon.admin.stat("messages.delivered") > before + 10).then_some(()));
                browser.click();
                eventually("its detail", || {
                    let address = browser.eval("location.hash");
                    (address != "#log" && address != "").then(|| assert_eq!(address, format!("#record={}", aimed.as_str().unwrap())))
                });
                let id = aimed.as_str().unwrap();
                eventually("its record", || text_of(&browser, "#detail-body").contains(id).then_some(()));
                browser.press(super::ESCAPE);
                eventually("its end", || (browser.eval("document.querySelector('#detail').open") == false).then_some(()));
            }
        };
        let aimed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(aim));
        stop.store(true, Ordering::Relaxed);
        assert!(mail.join().unwrap().count(Some(250)) > 0);
        if let Err(panic) = aimed {
            std::panic::resume_unwind(panic);
        }
    });
    clean(&browser, &daemon.admin_url());
}

/// 15 % of a core at 500 records a second: all that the page's thread does, as Chromium counts its processor time, so that what else runs beside
/// it makes no difference. At another rate it is as much of the time, or as much for each record.
#[test]
fn a_busy_log_costs_little() {
    const RECORDS: u32 = 1500;
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let browser = Browser::start();
    browser.become_a_desk();
    browser.open(&format!("{}/#log", daemon.admin_url()));
    browser.wait_for_text("No mail yet.");
    look_at_the_log(&browser);
    browser.chromium("Performance.enable", &json!({"timeDomain": "threadTicks"}));
    let now = || {
        let metrics = browser.chromium("Performance.getMetrics", &json!({}));
        let of = |name: &str| {
            metrics["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == name).unwrap()["value"].as_f64().unwrap()
        };
        [of("Timestamp"), of("ScriptDuration"), of("TaskDuration")]
    };
    let before = now();
    let outcome = load::run(&Load { senders: 4, ..Load::new(daemon.smtp(), RECORDS.into()) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), RECORDS as usize);
    eventually("the last ones", || (browser.eval("document.querySelectorAll('#records tr').length >= 50") == true).then_some(()));
    let after = now();
    let [seconds, script, all] = [0, 1, 2].map(|at| after[at] - before[at]);
    println!("{RECORDS} records in {seconds:.1} s: {:.0} ms of script, {:.0} ms of the page's thread", script * 1e3, all * 1e3);
    assert!(script > 0.0, "nothing was counted");
    let most = 0.15 * seconds.max(f64::from(RECORDS) / 500.0);
    assert!(all <= most, "{all} s of the page's thread for {RECORDS} records in {seconds} s");

    // Mail that never stops, slow enough for each row to be marked as new.
    let before = now();
    for n in 0..60 {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("slow-{n}"), "text")).starts("250 ");
    }
    eventually("the last one", || {
        (browser.eval("document.querySelector('#records').textContent.includes('slow-59')") == true).then_some(())
    });
    let after = now();
    let [seconds, all] = [0, 2].map(|at| after[at] - before[at]);
    println!("60 records in {seconds:.1} s: {:.0} ms of the page's thread", all * 1e3);
    assert!(all <= 0.15 * seconds, "{all} s of the page's thread for 60 records in {seconds} s");
}
