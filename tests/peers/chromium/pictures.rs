//! Pictures of the page for people to look at; the README's is one of them. By hand:
//! `cargo test --test main peers::chromium::pictures -- --ignored`, then look into `target/pictures`. With `MAILSLUICE_MINUTES=15` mail
//! flows so long before.

use super::Browser;
use crate::support::client::deliver;
use crate::support::load::{self, Load};
use crate::support::{Answer, Config, Daemon, Endpoint, eventually};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MAIL: [(&str, &str, &str, &str); 9] = [
    ("amelie@bistro-amelie.example", "support+orders@example.com", "Where is my order 4711?", "ok"),
    ("noreply@bank.example", "invoices@tickets.example.com", "Your statement for October", "ok"),
    ("j.ortega@museo.example", "guide@tickets.example.com", "Visita en grupo el sábado, ¿es posible?", "ok"),
    ("newsletter@shoes.example", "old-address@example.com", "-50 % only today", "refuse"),
    ("n.papadaki@ploia.example", "support+gr@example.com", "Παραγγελία 1187", "ok"),
    ("cron@build-7.example", "alerts@tickets.example.com", "nightly build failed: linker", "later"),
    ("m.lindqvist@fjord.example", "support+orders@example.com", "Re: Re: broken zipper (photos attached)", "ok"),
    ("", "bounces@example.com", "Delivery Status Notification (Failure)", "ok"),
    ("paula@co-op.example", "support+billing@example.com", "Change of address", "ok"),
];

#[test]
#[ignore = "makes pictures for people to look at"]
fn of_the_page() {
    let count = AtomicU64::new(0);
    let endpoint = Endpoint::with(move |request| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_micros(2000 + nth * 7919 % 9000 + if nth.is_multiple_of(40) { 120_000 } else { 0 }));
        let said = |word: &str| request.body.windows(word.len()).any(|part| part == word.as_bytes());
        match () {
            () if said("X-Answer: refuse") => Answer::text(422, "no such mailbox in this application"),
            () if said("X-Answer: later") => Answer::text(503, "the database is being migrated, come back in a while"),
            () => Answer::status(200),
        }
    })
    .start();
    let config = Config::without_routes()
        .route("tickets", &["*@tickets.example.com"], &endpoint.url("/tickets"))
        .of_route("format", "rfc822")
        .route("support", &["support+*@example.com"], &endpoint.url("/support"))
        .of_route("format", "rfc822")
        .route("everything-else", &["*"], &endpoint.url("/rest"))
        .of_route("format", "rfc822");
    let daemon = Daemon::start(config);
    let minutes = std::env::var("MAILSLUICE_MINUTES").map_or(0, |minutes| minutes.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let mut round = 0_u64;
    loop {
        // Some minutes have more mail than others.
        round += 1;
        let messages = 200 + round * 7919 % 500;
        let load = Load { senders: 3, recipient: "load@tickets.example.com".into(), ..Load::new(daemon.smtp(), messages) };
        load::run(&load, &AtomicBool::new(false));
        if Instant::now() >= until {
            break;
        }
        std::thread::park_timeout(Duration::from_secs(15));
    }
    for round in 0..3 {
        for (sender, recipient, subject, answer) in MAIL {
            if round > 0 && answer != "later" {
                continue;
            }
            let head =
                format!("From: {sender}\r\nX-Answer: {answer}\r\nMessage-ID: <{}@example>\r\nSubject: {subject}\r\n\r\n", subject.len());
            deliver(daemon.smtp(), sender, &[recipient], head.as_bytes());
        }
    }
    for (sender, recipient, subject, answer) in MAIL {
        let head =
            format!("From: {sender}\r\nX-Answer: {answer}\r\nX-More: {subject}\r\nSubject: {subject}\r\n\r\n{}", "text\r\n".repeat(200));
        deliver(daemon.smtp(), sender, &[recipient], head.as_bytes());
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pictures");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, scheme, phone) in
        [("light", "light", false), ("dark", "dark", false), ("phone", "light", true), ("phone-dark", "dark", true)]
    {
        let browser = Browser::start();
        if phone {
            browser.become_a_phone();
        }
        browser.prefer(scheme);
        browser.open(&format!("{}/", daemon.admin_url()));
        browser.wait_for_text("Change of address");
        eventually("the plot", || (browser.eval("document.querySelectorAll('#percentile-plot .curve').length") == 3).then_some(()));
        eventually("the undelivered", || {
            browser.eval("document.querySelector('#late').innerText").as_str().is_some_and(|text| text.contains("nightly")).then_some(())
        });
        for part in ["now", "latency", "undelivered", "log"] {
            browser.eval(&format!("document.querySelector('#{part}').scrollIntoView()"));
            std::fs::write(directory.join(format!("{name}-{part}.png")), browser.picture()).unwrap();
        }
        browser.eval("document.querySelector('#late a').click()");
        browser.wait_for_text("attempts at this message");
        std::fs::write(directory.join(format!("{name}-detail.png")), browser.picture()).unwrap();
    }
}
