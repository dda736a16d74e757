//! Promise 4 for real: an endpoint that gets more than it can do keeps doing what it can, and the rest is told "later" at once.
//! `MAILSLUICE_TEST_FULL=1` takes a minute each of all endpoints at all loads, and writes `benches/overload.svg`.

use crate::support::busy::{self, Busy, Sent, Takes};
use crate::support::client::deliver;
use crate::support::{Config, Daemon, eventually, messages, turn};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What is looked at of one endpoint at one load.
#[derive(Clone, Copy)]
struct Trial {
    workers: usize,
    takes: Takes,
    /// Times what it can do.
    load: f64,
    seconds: f64,
    /// Of the route.
    timeout: u32,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// What it worked for those that were delivered while the load was there, in percent of what it could do.
    goodput: f64,
    /// What it did for those that were told to come again, in percent of those that were delivered.
    duplicates: f64,
    /// The median of those that were refused from second five on (a third of a shorter trial).
    told_after: Duration,
    refused: usize,
    breaker_opened: bool,
    /// One message, five seconds behind the load.
    afterwards: Duration,
}

fn config(url: &str, timeout: u32) -> Config {
    Config::without_routes()
        .set("smtp.max_connections_per_ip", 10_000)
        .set("smtp.max_messages_per_connection", 1_000_000)
        .set("smtp.max_junk_commands", 1_000_000)
        .set("smtp.max_errors", 1000)
        .set("forward.workers", 512)
        .set("log.messages", "none")
        .route("all", &["*"], url)
        .of_route("format", "rfc822")
        .of_route("timeout", format!("{timeout}s"))
}

/// All of them beside each other. A turn belongs to a thread, and so do the daemons.
#[expect(clippy::print_stdout, reason = "the figures of a run by hand")]
fn run(trials: &[Trial]) -> Vec<Seen> {
    let start = |trial: &Trial| {
        let endpoint = Busy::start(trial.workers, trial.takes);
        let daemon = Daemon::start(config(&endpoint.url(), trial.timeout));
        (*trial, endpoint, daemon)
    };
    let running: Vec<_> = trials.iter().map(start).collect();
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = running.iter().map(|(trial, endpoint, daemon)| scope.spawn(|| watch(*trial, endpoint, daemon))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for (Trial { workers, takes, load, .. }, seen) in trials.iter().zip(&all) {
        println!("{workers:2} x {takes:?} at {load}: {seen:?}");
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "percentages")]
fn watch(trial: Trial, endpoint: &Busy, daemon: &Daemon) -> Seen {
    let Trial { workers, takes, load, seconds, .. } = trial;
    let could = workers as f64 * seconds;
    let began = Instant::now();
    let sent = busy::arrivals(daemon.smtp(), workers as f64 / takes.mean() * load, Duration::from_secs_f64(seconds));
    let over = began + Duration::from_secs_f64(seconds);
    // What is sent then is not delayed by what was; `arrivals` has waited for its last answer.
    eventually("five seconds behind the load", || (Instant::now() > over + Duration::from_secs(5)).then_some(()));
    let asked = Instant::now();
    let message = [b"X-Id: 0\r\n".as_slice(), &messages::simple("afterwards", "text")].concat();
    deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &message).starts("250 ");
    let afterwards = asked.elapsed();
    let breaker_opened = daemon.log().contains("breaker opened");

    let worked = endpoint.worked();
    let is_delivered = |id: u64| sent.get(&id).is_some_and(|sent| sent.code == 250);
    // One more was sent afterwards, under an id that was there before.
    let (useful, in_vain): (Vec<_>, Vec<_>) = worked[..worked.len() - 1].iter().partition(|work| is_delivered(work.id));
    let busy_for = |work: &&busy::Worked| work.ended.min(over).saturating_duration_since(work.begun).as_secs_f64();
    let goodput = useful.iter().map(busy_for).sum::<f64>() / could.min(sent.len() as f64 * takes.mean());
    let refused_from = began + Duration::from_secs_f64((seconds / 3.0).min(5.0));
    let is_late = |sent: &&Sent| sent.code == 451 && sent.at + sent.told_after >= refused_from;
    let mut told: Vec<_> = sent.values().filter(is_late).map(|sent| sent.told_after).collect();
    told.sort_unstable();
    assert!(sent.values().all(|sent| matches!(sent.code, 250 | 450 | 451)));
    Seen {
        goodput: 100.0 * goodput,
        duplicates: 100.0 * in_vain.len() as f64 / useful.len().max(1) as f64,
        told_after: told.get(told.len() / 2).copied().unwrap_or_default(),
        refused: told.len(),
        breaker_opened,
        afterwards,
    }
}

/// Some seconds each; the bounds hold beside other work, and are far from what an endpoint does whose queue is not kept short (a fifth,
/// and nine in ten of that in vain).
#[test]
fn an_overloaded_endpoint_does_what_it_can_and_the_rest_is_told_at_once() {
    let _turn = turn::alone();
    let trials = [(1, Takes::Constant(0.2), 2.5), (4, Takes::Exponential(0.25), 10.0), (20, Takes::Mixed(0.2, 0.8), 1.5)];
    for seen in run(&trials.map(|(workers, takes, load)| Trial { workers, takes, load, seconds: 10.0, timeout: 4 })) {
        assert!(seen.goodput > 60.0 && seen.duplicates < 15.0 && !seen.breaker_opened, "{seen:?}");
        assert!(seen.refused < 10 || seen.told_after < Duration::from_secs(1), "{seen:?}");
        assert!(seen.afterwards < Duration::from_secs(3), "{seen:?}");
    }
}

/// Every second answer takes two thirds of the timeout, and as many at once as are wanted: of twelve senders who wait for their answers next
/// to none is told "later", and they get nearly as far as without a limit.
#[test]
fn a_small_crowd_is_not_held_up_by_slow_answers() {
    let _turn = turn::alone();
    let endpoint = Busy::start(10_000, Takes::Turns(0.01, 2.0));
    let sent = [true, false].map(|adaptive| {
        let daemon = Daemon::start(config(&endpoint.url(), 3).of_route("adaptive", adaptive));
        busy::crowd(daemon.smtp(), 12, Duration::from_secs(8))
    });
    let [adaptive, free] = sent.each_ref().map(|sent| sent.iter().filter(|sent| sent.code == 250).count());
    let refused: Vec<_> = sent[0].iter().filter(|sent| sent.code != 250).map(|sent| (sent.code, sent.told_after)).collect();
    assert!(refused.len() <= 12 && adaptive * 10 > free * 8, "{adaptive} of {free}, refused {refused:?}");
}

/// Thirty come at once to an endpoint that nobody has asked yet, whose answers take a third of the timeout, however many it is asked for:
/// nearly all of them are delivered.
#[test]
fn a_crowd_of_slow_answers_is_borne() {
    let _turn = turn::alone();
    let endpoint = Busy::start(10_000, Takes::Constant(1.8));
    let daemon = Daemon::start(config(&endpoint.url(), 6));
    let sent = busy::crowd(daemon.smtp(), 30, Duration::from_millis(800));
    let delivered = sent.iter().filter(|sent| sent.code == 250).count();
    assert!(delivered >= 24, "{delivered} of {}", sent.len());
}

/// A reload takes most of its forwarders away while it is overloaded: what is under way ends, the rest is told as before.
#[test]
fn max_concurrency_lowered_under_load() {
    let endpoint = Busy::start(30, Takes::Constant(0.2));
    let before = config(&endpoint.url(), 4);
    let mut daemon = Daemon::start(before.clone());
    let to = daemon.smtp();
    let sent = std::thread::scope(|scope| {
        let load = scope.spawn(move || busy::arrivals(to, 150.0, Duration::from_secs(5)));
        eventually("many at work", || (daemon.admin.stat("routes.all.busy") > 10).then_some(()));
        daemon.reload(before.of_route("max_concurrency", 4));
        // The load is still there.
        eventually("few at work", || (daemon.admin.stat("routes.all.busy") <= 4).then_some(()));
        load.join().unwrap()
    });
    let count = |code: u16| sent.values().filter(|sent| sent.code == code).count();
    assert!(count(250) > 40 && count(250) + count(451) + count(450) == sent.len(), "{} of {}", count(250), sent.len());
    let worked = endpoint.worked();
    let in_vain = worked.iter().filter(|work| sent.get(&work.id).is_none_or(|sent| sent.code != 250)).count();
    assert!(in_vain * 10 < worked.len(), "{in_vain} of {}", worked.len());
    assert!(!daemon.log().contains("breaker opened"));
}

/// Nine in ten are quick, the others take long, and as many at once as are wanted: the limit finds no bound, and costs next to nothing.
#[test]
fn an_endpoint_with_two_speeds_and_no_limit_keeps_its_throughput() {
    if std::env::var_os("MAILSLUICE_TEST_FULL").is_none() {
        return;
    }
    let _turn = turn::alone();
    let takes = Takes::Mixed(0.05, 2.0);
    // A third of what all forwarders could do.
    let rate = 512.0 / takes.mean() / 3.0;
    let endpoint = Busy::start(10_000, takes);
    for adaptive in [false, true] {
        let daemon = Daemon::start(config(&endpoint.url(), 10).of_route("adaptive", adaptive));
        let began = Instant::now();
        let sent = busy::arrivals(daemon.smtp(), rate, Duration::from_secs(60));
        // Once it is found out.
        let later: Vec<_> = sent.values().filter(|sent| sent.at > began + Duration::from_secs(10)).collect();
        let delivered = later.iter().filter(|sent| sent.code == 250).count();
        println!(
            "adaptive {adaptive}: {delivered} of {}, {} of all {}",
            later.len(),
            sent.values().filter(|sent| sent.code == 250).count(),
            sent.len()
        );
        assert!(delivered * 100 >= later.len() * 95, "adaptive {adaptive}: {delivered} of {}", later.len());
    }
}

const LOADS: [f64; 3] = [1.2, 2.5, 10.0];

/// The longest answers are a quarter of the deadline, but for one in fifty of the exponential ones.
const ENDPOINTS: [(usize, Takes); 9] = [
    (1, Takes::Constant(0.25)),
    (1, Takes::Exponential(0.25)),
    (1, Takes::Mixed(0.05, 1.0)),
    (4, Takes::Constant(1.0)),
    (4, Takes::Exponential(0.6)),
    (4, Takes::Mixed(0.25, 2.5)),
    (50, Takes::Constant(0.5)),
    (50, Takes::Exponential(0.6)),
    (50, Takes::Mixed(0.25, 2.5)),
];

/// A minute each, deadline ten seconds.
#[test]
fn all_endpoints_at_all_loads() {
    if std::env::var_os("MAILSLUICE_TEST_FULL").is_none() {
        return;
    }
    let _turn = turn::alone();
    let trial = |(workers, takes), load| Trial { workers, takes, load, seconds: 60.0, timeout: 10 };
    let mut rows: Vec<(Trial, Seen)> = Vec::new();
    for load in LOADS {
        // The small ones beside each other, the large ones by themselves.
        for batch in [&ENDPOINTS[..6], &ENDPOINTS[6..7], &ENDPOINTS[7..8], &ENDPOINTS[8..]] {
            let trials: Vec<_> = batch.iter().map(|&of| trial(of, load)).collect();
            rows.extend(trials.iter().copied().zip(run(&trials)));
        }
    }
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/overload.svg"), plot(&rows)).unwrap();
    let missed: Vec<_> = rows
        .iter()
        .filter(|(_, seen)| {
            let told = seen.refused < 10 || seen.told_after < Duration::from_millis(150);
            seen.goodput < 90.0 || seen.duplicates > 2.0 || seen.breaker_opened || !told
        })
        .map(|(trial, seen)| format!("{} x {:?} at {}: {seen:?}", trial.workers, trial.takes, trial.load))
        .collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

/// An endpoint a row, a load a column: delivered in percent of what it could do as a bar, the rest as text.
fn plot(rows: &[(Trial, Seen)]) -> String {
    let (left, wide, high) = (190.0, 260.0, 34.0);
    let height = 50.0 + high * 9.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        left + 3.0 * wide
    );
    for (column, load) in LOADS.iter().enumerate() {
        let x = left + wide * column as f64;
        writeln!(svg, "<text x=\"{x}\" y=\"20\" font-weight=\"bold\">{load} times what it can do</text>").unwrap();
        let (goal, bottom) = (x + 2.0 * 90.0, 36.0 + high * 9.0);
        writeln!(svg, "<path d=\"M{goal} 30V{bottom}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>").unwrap();
    }
    for (row, (workers, takes)) in ENDPOINTS.iter().enumerate() {
        let y = 36.0 + high * row as f64;
        writeln!(svg, "<text x=\"8\" y=\"{}\">{workers} x {takes:?} s</text>", y + 16.0).unwrap();
        for (column, load) in LOADS.iter().enumerate() {
            let here = |(trial, _): &&(Trial, Seen)| {
                trial.workers == *workers && format!("{:?}", trial.takes) == format!("{takes:?}") && trial.load.to_bits() == load.to_bits()
            };
            let Some((_, seen)) = rows.iter().find(here) else { continue };
            let x = left + wide * column as f64;
            let Seen { goodput, duplicates, told_after, .. } = seen;
            writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{:.0}\" height=\"12\" fill=\"#3a7ca5\"/>", goodput * 2.0).unwrap();
            writeln!(
                svg,
                "<text x=\"{x}\" y=\"{}\">{goodput:.0} %, {duplicates:.1} % twice, told after {} ms</text>",
                y + 24.0,
                told_after.as_millis()
            )
            .unwrap();
        }
    }
    svg + "</svg>\n"
}
