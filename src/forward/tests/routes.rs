//! Several routes and many jobs: nobody waits for somebody else's endpoint, and every bound answers.

use super::*;
use crate::stats::BreakerState;

fn breaker(rig: &Rig) -> BreakerState {
    rig.stats.route("r").breaker()
}

#[test]
fn a_hanging_route_holds_its_own_forwarders_only() {
    let (hanging, good) = (Endpoint::silent(), Endpoint::always(OK));
    let rig = Rig::new(&format!(
        "{}{}[forward]\nworkers = 6\nqueue = 4\n",
        route("r", &hanging.url("/"), "max_concurrency = 3\ntimeout = \"5m\""),
        route("good", &good.url("/"), "max_concurrency = 3"),
    ));
    let mut held: Vec<_> = (0..7).map(|_| rig.submit("r", b"m").unwrap()).collect();
    assert_eq!(rig.submit("r", b"m").err(), Some(Refused::QueueFull));
    wait_until("three hang", || hanging.seen.lock().unwrap().len() == 3);
    assert_eq!(rig.stats.route("r").queued.get(), 4);
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        assert_eq!(answer(rig.submit("good", b"m").unwrap()).unwrap().status, 200);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(held.iter_mut().all(|receiver| receiver.try_recv().is_err()), "the others hang on");
    assert_eq!(hanging.connections(), 3);
    rig.forwarders.abort();
    for receiver in held {
        broken(answer(receiver));
    }
    assert_eq!(rig.submit("good", b"m").err(), Some(Refused::Draining));
    assert_eq!((rig.stats.forwarders.queued.get(), rig.budget.held()), (0, 0));
    wait_until("no forwarder is busy", || rig.stats.forwarders.busy.get() == 0);
}

/// Also when every forwarder is held by another route, and for longer.
#[test]
fn a_job_that_waits_is_answered_at_its_deadline() {
    let (hanging, good) = (Endpoint::silent(), Endpoint::always(OK));
    let rig = Rig::new(&format!(
        "{}{}[forward]\nworkers = 1\nbreaker = {{ failures = 1, cooldown = \"1h\" }}\n",
        route("hanging", &hanging.url("/"), "max_concurrency = 1\ntimeout = \"5m\""),
        route("r", &good.url("/"), "max_concurrency = 1"),
    ));
    let held = rig.submit("hanging", b"m").unwrap();
    wait_until("the only forwarder hangs", || hanging.seen.lock().unwrap().len() == 1);
    let begun = Instant::now();
    let waiting = rig.submit_within(Duration::from_millis(300), b"m").unwrap();
    assert_eq!(waiting.blocking_recv().unwrap().err(), Some(Refused::TooLate));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((breaker(&rig), good.connections()), (BreakerState::Closed, 0), "its endpoint was not asked");
    rig.forwarders.abort();
    broken(answer(held));
}

/// Also when no thread is to be had for what a ring does not do.
#[test]
fn a_job_that_is_not_prepared_in_time_is_answered_at_its_deadline() {
    let endpoint = Endpoint::always(OK);
    let rig = Rig::new(&route("r", &endpoint.url("/"), "max_concurrency = 1\n[forward]\nworkers = 1").replace("rfc822", "json"));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    rig.forwarders.pool.give(Box::new(move || wait.recv().unwrap_or_default()));
    let message = vec![b'm'; 100_000];
    let late = rig.submit_within(Duration::from_millis(300), &message).unwrap();
    assert_eq!(late.blocking_recv().unwrap().err(), Some(Refused::TooLate));
    go.send(()).unwrap();
    assert_eq!(rig.send(&message).unwrap().status, 200);
    wait_until("what came too late is gone", || rig.budget.held() == 0);
}

#[test]
fn a_burst_within_the_permits_is_taken_whatever_the_queue() {
    let endpoint = Endpoint::always(OK);
    let rig = Rig::new(&format!(
        "{}[forward]\nworkers = 64\nqueue = 1\n",
        route("r", &endpoint.url("/"), "max_concurrency = 64\nadaptive = false")
    ));
    let receivers: Vec<_> = (0..64).map(|_| rig.submit("r", b"m").unwrap()).collect();
    for receiver in receivers {
        assert_eq!(answer(receiver).unwrap().status, 200);
    }
    assert!(rig.stats.forwarders.started.get() <= 64);
}

#[test]
fn a_few_forwarders_serve_many_routes() {
    let endpoint = Endpoint::always(OK);
    let routes: String = (0..20).map(|n| route(&format!("r{n}"), &endpoint.url("/"), "max_concurrency = 2")).collect();
    let rig = Rig::new(&format!("{routes}[forward]\nworkers = 2\nqueue = 100\n"));
    let receivers: Vec<_> = (0..200).map(|n| rig.submit(&format!("r{}", n % 20), b"m").unwrap()).collect();
    for receiver in receivers {
        assert_eq!(answer(receiver).unwrap().status, 200);
    }
    assert_eq!(rig.stats.forwarders.started.get(), 2);
    wait_until("all is counted back", || rig.stats.forwarders.busy.get() == 0 && rig.stats.forwarders.queued.get() == 0);
}

#[test]
fn the_breaker_opens_probes_and_closes() {
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answers = Arc::clone(&well);
    let endpoint = Endpoint::start(move |talk| {
        while talk.request() && answers.load(Ordering::SeqCst) && talk.say("HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n") {}
    });
    let rig = Rig::of(&endpoint, "\n[forward]\nbreaker = { failures = 3, cooldown = \"1s\" }");
    for _ in 0..3 {
        assert_eq!(breaker(&rig), BreakerState::Closed);
        broken(rig.send(b"m"));
    }
    assert_eq!(breaker(&rig), BreakerState::Open);
    assert_eq!(rig.submit("r", b"m").err(), Some(Refused::BreakerOpen));
    assert_eq!(endpoint.requests().len(), 3);
    well.store(true, Ordering::SeqCst);
    // The first that is let through is the probe; any answer closes the breaker.
    let probe = std::cell::Cell::new(None);
    wait_until("the cooldown passes", || {
        probe.set(rig.submit("r", b"m").ok());
        let taken = probe.take();
        let done = taken.is_some();
        probe.set(taken);
        done
    });
    assert_eq!(answer(probe.take().unwrap()).unwrap().status, 500);
    assert_eq!((breaker(&rig), endpoint.requests().len()), (BreakerState::Closed, 1));
    for _ in 0..5 {
        assert_eq!(rig.send(b"m").unwrap().status, 500, "an answer, whatever it says, is no failure");
    }
}

#[test]
fn jobs_that_waited_while_the_breaker_opened_are_not_tried() {
    let endpoint = Endpoint::silent();
    let more = "max_concurrency = 1\n[forward]\nbreaker = { failures = 1, cooldown = \"1h\" }";
    let rig = Rig::of(&endpoint, more);
    let first = rig.submit_within(Duration::from_millis(300), b"m").unwrap();
    let waiting: Vec<_> = (0..10).map(|_| rig.submit("r", b"m").unwrap()).collect();
    broken(answer(first));
    for receiver in waiting {
        assert_eq!(receiver.blocking_recv().unwrap().err(), Some(Refused::BreakerOpen));
    }
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn a_job_whose_waiter_is_gone_is_not_sent() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let endpoint = Endpoint::start(move |talk| {
        while talk.request() {
            wait.lock().unwrap().recv().unwrap();
            talk.say(OK);
        }
    });
    let rig = Rig::of(&endpoint, "max_concurrency = 1");
    let first = rig.submit("r", b"first").unwrap();
    wait_until("the first is under way", || rig.stats.route("r").busy.get() == 1);
    drop(rig.submit("r", b"abandoned").unwrap());
    let last = rig.submit("r", b"last").unwrap();
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(answer(first).unwrap().status, 200);
    assert_eq!(answer(last).unwrap().status, 200);
    let bodies: Vec<_> = endpoint.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [b"first".to_vec(), b"last".to_vec()]);
}

#[test]
fn the_body_is_freed_before_the_answer_is_told() {
    let endpoint = Endpoint::always(OK);
    let rig = Rig::of(&endpoint, "");
    for _ in 0..20 {
        assert_eq!(rig.send(&vec![b'm'; 300_000]).unwrap().status, 200);
        assert_eq!(rig.budget.held(), 0);
    }
}

#[test]
fn a_reload_keeps_the_lane_and_takes_new_limits() {
    let endpoint = Endpoint::silent();
    let before = |concurrency: usize| {
        format!("{}[forward]\nqueue = 1\n", route("r", &endpoint.url("/"), &format!("max_concurrency = {concurrency}\ntimeout = \"5m\"")))
    };
    let mut rig = Rig::new(&before(1));
    let mut held = vec![rig.submit("r", b"m").unwrap()];
    wait_until("it hangs", || endpoint.connections() == 1);
    held.push(rig.submit("r", b"m").unwrap());
    assert_eq!(rig.submit("r", b"m").err(), Some(Refused::QueueFull));
    let old = std::mem::replace(&mut rig.config, Config::parse(Origin::File("test.toml".into()), &before(3)).unwrap());
    rig.forwarders.reload(&rig.config, Some(&old)).unwrap();
    held.push(rig.submit("r", b"m").unwrap());
    wait_until("the new permits are used, for the job that waited too", || endpoint.seen.lock().unwrap().len() == 3);
    // Calls from before the reload end as well.
    rig.forwarders.abort();
    for receiver in held {
        broken(answer(receiver));
    }
}
