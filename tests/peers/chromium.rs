//! A real Chromium drives the page.

mod axe;
mod browser;
mod inspector;
mod pictures;
mod sections;

use crate::support::certificates::Authority;
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Config, Daemon, Endpoint, eventually, messages, port};
use browser::Browser;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

/// No console error, no policy violation, nothing asked of another origin.
#[track_caller]
fn clean(browser: &Browser, origin: &str) {
    let severe: Vec<Value> = browser.console().into_iter().filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG").collect();
    assert!(severe.is_empty(), "{severe:?}");
    let requested = browser.requested();
    assert!(!requested.is_empty());
    for url in requested {
        assert!(url.starts_with(origin) || url.starts_with("data:") || url.starts_with("chrome") || url.starts_with("about:"), "{url}");
    }
}

/// Out of view the log does no work; and what appears above it moves it out of view.
fn look_at_the_log(browser: &Browser) {
    browser.eval("void new ResizeObserver(() => document.querySelector('#log').scrollIntoView()).observe(document.body)");
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
    look_at_the_log(&browser);
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
    clean(&browser, &daemon.admin_url());
}

#[test]
fn hostile_fields_are_shown_as_text() {
    let endpoint = Endpoint::always(Answer::text(200, "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"));
    let daemon = Daemon::start(Config::to(&endpoint));
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    look_at_the_log(&browser);
    let hostile = [
        "<script>window.hit=1</script>",
        "<img src=x onerror=window.hit=1>",
        "\"><svg onload=window.hit=1>",
        "javascript:window.hit=1",
        "{{constructor.constructor('window.hit=1')()}}",
        "event: skipped",
        "data: {}",
        "event: skipped =?utf-8?Q?=0A=0Aevent:_skipped=0Adata:_{}=0A=0A?= id: 1",
    ];
    for subject in hostile {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: {subject}\r\n\r\n").as_bytes()).starts("250 ");
        browser.wait_for_text(subject.split(" =?").next().unwrap());
    }
    // In other fields that a stranger fills: each is a row, none an event.
    let odd = b"Message-ID: event: skipped\r\nSubject: odd fields\r\n\r\n";
    deliver(daemon.smtp(), "\"event: skipped\"@sender.test", &["\"data: {}\"@example.test"], odd).starts("250 ");
    browser.wait_for_text("odd fields");
    let bidi = "=?utf-8?Q?=E2=80=AEgnp.exe=00=07?=";
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: marker {bidi}\r\n\r\n").as_bytes()).starts("250 ");
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], format!("Subject: {}\r\n\r\n", "long ".repeat(199)).as_bytes())
        .starts("250 ");
    browser.wait_for_text("marker");
    browser.wait_for_text("long long");
    assert_eq!(browser.eval("window.hit === undefined"), true);
    // The page keeps its width, whatever a subject's length.
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= window.innerWidth"), true);
    clean(&browser, &daemon.admin_url());
}

#[test]
fn what_is_wrong_comes_first() {
    let away = SocketAddr::from(([127, 0, 0, 1], port::free()));
    let endpoint = Endpoint::ok();
    let config = Config::to(&endpoint).set("forward.breaker.failures", 2).set("forward.breaker.cooldown", "60s");
    let config = config.route("away", &["x@away.test"], &format!("http://{away}/in"));
    let daemon = Daemon::start(config.reversed_routes());
    let browser = Browser::start();
    browser.become_a_desk();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("Taking mail");
    let title = || browser.eval("document.title").as_str().unwrap_or_default().to_owned();
    eventually("the title", || (title() == "● Taking mail · mx.test · mailsluice").then_some(()));
    let icon = browser.eval("document.querySelector('link[rel=icon]').href");
    for _ in 0..3 {
        deliver(daemon.smtp(), "a@sender.test", &["x@away.test"], &messages::simple("late", "text")).starts("45");
    }
    browser.wait_for_text("1 of 2 routes not answering");
    let strip = || browser.eval("document.querySelector('#trouble').innerText").as_str().unwrap_or_default().to_owned();
    eventually("the reason, and what to do", || (strip().contains("refused") && strip().contains("mailsluice doctor")).then_some(()));
    eventually("the title", || title().starts_with("◐ 1 of 2 routes").then_some(()));
    assert_ne!(browser.eval("document.querySelector('link[rel=icon]').href"), icon);
    // In the first screen, with the way to its records, on a desk and on a phone.
    let above = "['#state', '#host', '#trouble li', '#trouble button'].every((one) => {
            const box = document.querySelector(one)?.getBoundingClientRect();
            return box && box.top >= 0 && box.bottom < innerHeight && box.right <= innerWidth && box.width > 0;
        })";
    eventually("since when, where and what comes next", || {
        let said = strip();
        (said.contains("since ") && said.contains(&away.to_string()) && said.contains("3 deferred") || said.contains("2 deferred"))
            .then_some(())
    });
    assert_eq!(browser.eval(above), true);
    browser.eval("document.querySelector('#trouble button').click()");
    eventually("its records", || (browser.eval("location.search") == "?outcome=deferred&route=away").then_some(()));
    browser.become_a_phone();
    browser.open(&format!("{}/?route=away", daemon.admin_url()));
    browser.wait_for_text("1 of 2 routes not answering");
    eventually("the strip", || (browser.eval(above) == true).then_some(()));
    assert_eq!(browser.eval("document.querySelector('#filters').elements.route.value"), "away", "a search is in its address");
    clean(&browser, &daemon.admin_url());
}

/// A certificate that ends soon, then one that has ended, then a renewal that failed: in header, title and strip, on a desk and on a phone; then
/// all is well again.
#[test]
fn a_certificate_that_ends_is_told_in_the_first_screen() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let pair = |days| authority.issue_into_until(dir.path(), "mx", &["mx.test"], Some(days));
    let files = pair(5);
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(std::sync::Arc::clone(&dir), config);
    let browser = Browser::start();
    let says = |state: &str, why: &[&str]| {
        for phone in [false, true] {
            if phone {
                browser.become_a_phone();
            } else {
                browser.become_a_desk();
            }
            eventually(&format!("{state}, phone: {phone}"), || {
                let title = browser.eval("document.title");
                let strip = browser.eval("document.querySelector('#trouble').innerText");
                (title.as_str().is_some_and(|title| title.contains(state))
                    && strip.as_str().is_some_and(|strip| why.iter().all(|why| strip.contains(why))))
                .then_some(())
            });
            let seen = "['#state', '#trouble li:last-child'].every((one) => {
                    const box = document.querySelector(one).getBoundingClientRect();
                    return box.top >= 0 && box.bottom < innerHeight && box.left >= 0 && box.right <= innerWidth && box.width > 0;
                }) && document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.eval(seen), true, "{state}, phone: {phone}");
            assert!(browser.eval("document.querySelector('#state').innerText").as_str().is_some_and(|text| text.contains(state)));
        }
        let stats = daemon.cli(&["stats"]).ok();
        assert!(stats.lines().next().is_some_and(|first| first.contains(&state.to_lowercase())), "{stats}");
        assert!(why.iter().all(|why| stats.contains(why)), "{stats}");
    };
    browser.open(&format!("{}/", daemon.admin_url()));
    says("Taking mail, but mx.pem expires in", &["renew it (certbot renew"]);
    pair(-3);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    says("Taking mail, but mx.pem expired", &["senders that look at it defer their mail"]);
    let (certificate, _) = authority.issue(&["mx.test"]);
    std::fs::write(&files.certificate, certificate).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    says("Taking mail, but mx.pem expired", &["cannot be used, the old pair stays"]);
    pair(90);
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("all is well", || (browser.eval("document.title") == "● Taking mail · mx.test · mailsluice").then_some(()));
    assert_eq!(browser.eval("document.querySelector('#trouble').hidden"), true);
    clean(&browser, &daemon.admin_url());
}

#[test]
fn a_click_meets_what_it_aimed_at() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for n in 0..5 {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(&format!("aimed-{n}"), "text")).starts("250 ");
    }
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("aimed-0");
    look_at_the_log(&browser);
    // Under the focus nothing moves, while mail flows; what came is counted, and shown once the log is left.
    browser.eval("void (window.aimed = document.querySelector('#records tr:nth-child(3) a')).focus()");
    let before = browser.eval("aimed.getBoundingClientRect().top");
    let outcome = load::run(&Load { senders: 2, ..Load::new(daemon.smtp(), 40) }, &AtomicBool::new(false));
    assert_eq!(outcome.count(Some(250)), 40);
    browser.wait_for_text("newer");
    assert_eq!(browser.eval("aimed.isConnected && aimed.getBoundingClientRect().top"), before);
    assert_eq!(browser.eval("document.activeElement === aimed"), true);
    browser.eval("aimed.blur()");
    eventually("all rows", || (browser.eval("document.querySelectorAll('#records tr').length") == 45).then_some(()));
    clean(&browser, &daemon.admin_url());
}

#[test]
fn the_undelivered_list() {
    let endpoint = Endpoint::in_turn(vec![Answer::text(503, "not now"), Answer::text(503, "still not"), Answer::status(200)]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("None: every message was taken or refused.");
    let list = || browser.eval("document.querySelector('#late').innerText").as_str().unwrap_or_default().to_owned();
    let attempt = || deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("a-late-one", "text"));
    for attempts in 1..=2 {
        attempt().starts("450 ");
        // Columns: last seen, first seen, attempts, subject, ..., the last answer.
        eventually("the message with its attempts", || {
            let cell = |n| browser.eval(&format!("document.querySelector('#late tr').cells[{n}]?.innerText"));
            (list().contains("a-late-one") && cell(2) == attempts.to_string().as_str()).then_some(())
        });
    }
    assert!(list().contains("503") && list().contains("still not"), "{}", list());
    let seen = &daemon.admin.json("/undelivered")["undelivered"][0];
    assert!(seen["first_seen"].as_str() < seen["last_seen"].as_str(), "{seen}");
    for (cell, time) in [(0, "last_seen"), (1, "first_seen")] {
        assert_eq!(browser.eval(&format!("document.querySelector('#late tr').cells[{cell}].querySelector('time').dateTime")), seen[time]);
    }
    assert_eq!(browser.eval("document.querySelector('#undelivered-count').innerText"), "1");
    // Its row leads to the record, which has all attempts.
    browser.eval("document.querySelector('#late a').click()");
    browser.wait_for_text("2 attempts at this message");
    browser.press(ESCAPE);
    // The retry gets through: the message vanishes by itself.
    attempt().starts("250 ");
    eventually("an empty list", || list().contains("None:").then_some(()));
    eventually("the count", || (browser.eval("document.querySelector('#undelivered-count').innerText") == "0").then_some(()));
    clean(&browser, &daemon.admin_url());
}

/// "All boxes" shows what another box took, and where each stands; the page asks nothing that fails.
#[test]
fn the_log_of_all_boxes() {
    let endpoint = Endpoint::with(|request| match request.body.windows(4).any(|w| w == b"LATE") {
        true => Answer::text(503, "not now"),
        false => Answer::status(200),
    })
    .start();
    let fleet = super::postgres::two_boxes(&endpoint);
    deliver(fleet.second.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("taken-elsewhere", "text")).starts("250 ");
    deliver(fleet.second.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("put-off-elsewhere", "LATE")).starts("450 ");
    deliver(fleet.first.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("taken-here", "text")).starts("250 ");
    fleet.all_arrived();
    let browser = Browser::start();
    browser.open(&format!("{}/", fleet.first.admin_url()));
    browser.wait_for_text("taken-here");
    eventually("the switch", || (browser.eval("document.querySelector('#scope').hidden") == false).then_some(()));
    assert!(!browser.text().contains("elsewhere"));
    let choose = |value: &str| {
        let change = "dispatchEvent(new Event('change'))";
        browser.eval(&format!("(() => {{ const s = document.querySelector('#boxes-shown'); s.value = '{value}'; s.{change}; }})()"));
    };
    choose("all");
    browser.wait_for_text("taken-elsewhere");
    browser.wait_for_text("mx2");
    eventually("the undelivered of all", || {
        browser
            .eval("document.querySelector('#late').innerText")
            .as_str()
            .is_some_and(|text| text.contains("put-off-elsewhere"))
            .then_some(())
    });
    browser.eval("void document.querySelector('#boxes').scrollIntoView()");
    eventually("both boxes", || (browser.eval("document.querySelectorAll('#box-rows tr').length") == 2).then_some(()));
    choose("");
    eventually("this box alone", || (!browser.text().contains("taken-elsewhere")).then_some(()));
    clean(&browser, &fleet.first.admin_url());
    let all: [axe::Step; 1] = [(
        "(() => { const s = document.querySelector('#boxes-shown'); s.value = 'all'; s.dispatchEvent(new Event('change')); })()",
        "document.querySelector('#records').innerText.includes('taken-elsewhere') && document.querySelectorAll('#box-rows tr').length === 2",
    )];
    axe::look(&browser, &format!("{}/", fleet.first.admin_url()), &[&all]);
}

/// WebDriver's names of keys.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

#[test]
fn by_keyboard_alone() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    for subject in ["first-mail", "second-mail"] {
        deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple(subject, "text")).starts("250 ");
    }
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("second-mail");
    let focused = |what: &str| browser.eval(&format!("document.activeElement.{what}"));
    // The first stop of Tab leads past everything to the log, and can be seen.
    browser.press(TAB);
    assert_eq!(focused("innerText"), "Skip to the record log");
    assert_eq!(browser.eval("document.activeElement.getBoundingClientRect().top >= 0"), true);
    browser.press(ENTER);
    browser.press(TAB);
    assert_eq!(focused("name"), "text", "the search comes first");
    browser.press("first-m");
    eventually("the search's result", || {
        let rows = browser.eval("document.querySelector('#records').innerText");
        rows.as_str().is_some_and(|rows| rows.contains("first-mail") && !rows.contains("second-mail")).then_some(())
    });
    // On to the row; what has the focus is outlined all along.
    for _ in 0..20 {
        browser.press(TAB);
        assert_ne!(browser.eval("getComputedStyle(document.activeElement).outlineStyle"), "none", "{}", focused("outerHTML"));
        if focused("innerText") == "first-mail" {
            break;
        }
    }
    assert_eq!(focused("innerText"), "first-mail");
    browser.press(ENTER);
    eventually("the detail", || (browser.eval("document.querySelector('#detail').open") == true).then_some(()));
    assert_eq!(browser.eval("document.querySelector('#detail').contains(document.activeElement)"), true);
    browser.press(ESCAPE);
    eventually("its end", || (browser.eval("document.querySelector('#detail').open") == false).then_some(()));
    assert_eq!(focused("innerText"), "first-mail", "the focus is where it was");
    // Whatever can be used has a name for those who hear the page.
    let nameless = browser.eval(
        "[...document.querySelectorAll('a, button, input, select')].filter((node) => !node.closest('[hidden]')
            && !(node.innerText || node.getAttribute('aria-label') || node.labels?.length)).map((node) => node.outerHTML)",
    );
    assert_eq!(nameless, serde_json::json!([]));
    clean(&browser, &daemon.admin_url());
}

#[test]
fn on_a_phone() {
    let endpoint = Endpoint::in_turn(vec![Answer::status(200), Answer::text(503, "later, please, since the database is away")]);
    let daemon = Daemon::start(Config::to(&endpoint));
    let long = "a subject of some length that would not fit beside anything else on a screen so narrow";
    for (subject, reply) in [("taken", "250 "), (long, "450 ")] {
        deliver(daemon.smtp(), "a.sender.with.a.long.name@sender.test", &["b@example.test"], &messages::simple(subject, "text"))
            .starts(reply);
    }
    let browser = Browser::start();
    browser.become_a_phone();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("a subject of some length");
    eventually("the undelivered list", || {
        browser.eval("document.querySelector('#late').innerText").as_str().is_some_and(|text| text.contains("1 attempt")).then_some(())
    });
    let fits = |what: &str| assert_eq!(browser.eval("document.documentElement.scrollWidth <= innerWidth"), true, "{what} is too wide");
    assert_eq!(browser.eval("innerWidth"), 390);
    fits("the page");
    // A record is a card whose subject has the whole line; nothing is smaller than can be read.
    assert_eq!(browser.eval("getComputedStyle(document.querySelector('#records tr')).display"), "grid");
    assert_eq!(browser.eval("document.querySelector('#records tr').cells[2].clientWidth > 300"), true);
    let small = browser.eval(
        "[...document.querySelectorAll('#main *')].filter((node) => node.checkVisibility() && !node.closest('svg')
            && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
            && parseFloat(getComputedStyle(node).fontSize) < 11).map((node) => node.outerHTML)",
    );
    assert_eq!(small, serde_json::json!([]));
    browser.eval("document.querySelector('#records a').click()");
    browser.wait_for_text("The only attempt at this message");
    assert_eq!(browser.eval("document.querySelector('#detail').getBoundingClientRect().width <= innerWidth"), true);
    fits("the detail");
    clean(&browser, &daemon.admin_url());
}

/// The address of a record leads there behind the sign-in, which nothing covers: with a wrong token, and when the token changes under an open page.
#[test]
fn a_wrong_token_and_one_that_changes() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let token = dir.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let config = Config::to(&endpoint).set("admin.token_file", token.to_str().unwrap());
    let daemon = Daemon::start_in(std::sync::Arc::clone(&dir), config);
    let reply = deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("behind-the-token", "text"));
    let id = reply.text().rsplit(' ').next().unwrap().to_owned();
    let browser = Browser::start();
    browser.open(&format!("{}/#record={id}", daemon.admin_url()));
    let asks = |why: &str| {
        eventually(&format!("the sign-in, {why:?}"), || {
            (browser.eval("!document.querySelector('#sign-in').hidden && !document.querySelector('dialog[open]')") == true
                && browser.eval("document.querySelector('#sign-in-error').innerText") == why)
                .then_some(())
        });
        assert_eq!(browser.eval("location.hash"), format!("#record={id}"));
        assert!(!browser.text().contains("behind-the-token"));
    };
    let give = |token: &str| {
        browser
            .eval(&format!("void (document.querySelector('#token').value = '{token}', document.querySelector('#sign-in').requestSubmit())"))
    };
    let opens = || {
        eventually("the record", || {
            let text = browser.eval("document.querySelector('#detail[open]')?.innerText");
            text.as_str().is_some_and(|text| text.contains("behind-the-token") && text.contains(&id)).then_some(())
        });
    };
    asks("");
    give("wrong");
    asks("That is not the token.");
    give("first");
    opens();
    std::fs::write(&token, "second").unwrap();
    asks("That is not the token.");
    give("second");
    opens();
}

#[test]
fn a_daemon_that_goes_away_and_comes_back() {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).set("admin.listen", format!("127.0.0.1:{}", port::free())));
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("before-it", "text")).starts("250 ");
    let browser = Browser::start();
    browser.open(&format!("{}/", daemon.admin_url()));
    browser.wait_for_text("before-it");
    browser.wait_for_text("Taking mail");
    clean(&browser, &daemon.admin_url());
    let killed = daemon.kill();
    browser.wait_for_text("No connection to the daemon.");
    assert_eq!(browser.eval("document.querySelector('#state').innerText"), "No connection");
    assert!(browser.text().contains("before-it"), "what was there can still be read");
    let daemon = killed.restart();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("after-it", "text")).starts("250 ");
    browser.wait_for_text("after-it");
    browser.wait_for_text("Taking mail");
    look_at_the_log(&browser);
    assert_eq!(browser.eval("document.querySelector('#banner').hidden"), true);
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &messages::simple("live-again", "text")).starts("250 ");
    browser.wait_for_text("live-again");
    // The browser says for each try that nothing answered; nothing else went wrong.
    for entry in browser.console() {
        let message = entry["message"].as_str().unwrap_or_default();
        assert!(message.contains("net::ERR_"), "{entry}");
    }
}
