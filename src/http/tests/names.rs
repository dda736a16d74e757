//! Names, from a name server on loopback that hangs, fails, lies and changes its mind.

use super::name_server::{NameServer, Says};
use crate::http::{Client, Names};
use crate::http::{NoAnswer, Phase, Request, Resolver, Roots, Tls, Wanted};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn resolver(server: &NameServer) -> Arc<Resolver> {
    Resolver::start(&[server.address], Duration::from_secs(2)).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Look-ups wait on timers only, which any tokio has.
fn wait<T>(look_up: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(look_up)
}

fn addresses(names: &Names, host: &str) -> Result<Vec<IpAddr>, String> {
    wait(names.addresses(host, false, Instant::now() + PATIENCE))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn literals_and_the_machines_own_names_ask_nobody() {
    let server = NameServer::start();
    let names = resolver(&server).names();
    assert_eq!(addresses(&names, "[::1]").unwrap(), [ip("::1")]);
    assert_eq!(addresses(&names, "10.0.0.1").unwrap(), [ip("10.0.0.1")]);
    assert!(addresses(&names, "localhost").unwrap().iter().all(IpAddr::is_loopback));
    assert_eq!(server.asked(), 0);
}

#[test]
fn a_burst_is_one_look_up_and_families_take_turns() {
    let server = NameServer::start();
    server.say("app.example", Says::Addresses(60, ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(ip).to_vec()));
    let names = resolver(&server).names();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(addresses(&names, "app.example").unwrap(), ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(ip)));
        }
    });
    assert_eq!((server.asked(), server.asked_for("app.example")), (2, 1), "a question for each family");
    names.connected("app.example", false, ip("192.0.2.2"));
    assert_eq!(addresses(&names, "app.example").unwrap(), ["192.0.2.2", "2001:db8::1", "192.0.2.1"].map(ip), "who answered is first");
}

#[test]
fn what_is_known_serves_while_the_name_server_hangs_or_fails() {
    for trouble in [Says::Nothing, Says::Failure] {
        let server = NameServer::start();
        // A time to live that is none.
        server.say("app.example", Says::Addresses(0, vec![ip("192.0.2.1")]));
        let names = resolver(&server).names();
        assert_eq!(addresses(&names, "app.example").unwrap(), [ip("192.0.2.1")]);
        server.say("app.example", trouble);
        let asked = server.asked();
        let mut longest = Duration::ZERO;
        wait_until("it is asked again, more than once", || {
            let begun = Instant::now();
            assert_eq!(addresses(&names, "app.example").unwrap(), [ip("192.0.2.1")]);
            longest = longest.max(begun.elapsed());
            server.asked() >= asked + 4
        });
        assert!(longest < Duration::from_millis(1500), "nobody waits for the name server: {longest:?}");
    }
}

#[test]
fn who_says_that_there_is_nothing_is_believed_and_a_name_comes_back() {
    let server = NameServer::start();
    server.say("app.example", Says::Addresses(1, vec![ip("192.0.2.1")]));
    let names = resolver(&server).names();
    assert!(addresses(&names, "app.example").is_ok());
    server.say("app.example", Says::NoSuchName);
    wait_until("it is gone", || addresses(&names, "app.example").is_err());
    assert_eq!(addresses(&names, "app.example").unwrap_err(), "no such host");
    server.say("app.example", Says::Addresses(u32::MAX, vec![ip("192.0.2.9")]));
    wait_until("it is back", || addresses(&names, "app.example").is_ok_and(|found| found == [ip("192.0.2.9")]));
}

#[test]
fn a_routes_hanging_names_hold_up_nobody_elses() {
    let server = NameServer::start();
    server.say_always(Says::Nothing);
    server.say("known.example", Says::Addresses(0, vec![ip("192.0.2.1")]));
    server.say("new.example", Says::Addresses(60, vec![ip("192.0.2.2")]));
    let resolver = resolver(&server);
    let healthy = resolver.names();
    assert!(addresses(&healthy, "known.example").is_ok());
    let soon = || Instant::now() + Duration::from_millis(1);
    let mut refused = 0;
    // Forty routes, each with more hosts than it may look up at once.
    for route in 0..40 {
        let names = resolver.names();
        for n in 0..20 {
            let host = format!("hangs{n}.r{route}.example");
            refused += usize::from(wait(names.addresses(&host, n % 2 == 0, soon())).unwrap_err().starts_with("too many"));
        }
    }
    assert_eq!(refused, 0, "half of them are for redirects: each has a share of its own");
    let begun = Instant::now();
    assert_eq!(addresses(&healthy, "known.example").unwrap(), [ip("192.0.2.1")]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let mine = resolver.names();
    for n in 0..17 {
        let host = format!("hangs{n}.mine.example");
        let ended = wait(mine.addresses(&host, false, soon())).unwrap_err();
        assert_eq!(ended.starts_with("too many"), n == 16, "{n}: {ended}");
    }
    assert_eq!(addresses(&healthy, "new.example").unwrap(), [ip("192.0.2.2")], "a new name has its turn");
}

/// Whatever the DNS said of its time to live: addresses that do not answer any more are asked for again.
#[test]
fn an_endpoint_that_has_moved_is_found() {
    let server = NameServer::start();
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = endpoint.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in endpoint.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 204 Yes\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    server.say("app.example", Says::Addresses(86_400, vec![ip("127.0.0.2")]));
    let names = resolver(&server).names();
    assert!(addresses(&names, "app.example").is_ok());
    server.say("app.example", Says::Addresses(86_400, vec![ip("127.0.0.1")]));
    let client = Arc::new(client(names));
    let ask = move |url: String| {
        let client = Arc::clone(&client);
        let answered = Arc::new(Mutex::new(None));
        let told = Arc::clone(&answered);
        crate::ring::run(async move {
            let url = url.parse().unwrap();
            let deadline = Instant::now() + PATIENCE;
            let request = Request {
                url: &url,
                headers: &[],
                len: 1,
                body: &[b"m"],
                deadline,
                socket: None,
                at_home: true,
                redirected: false,
                only_public: false,
                wanted: Wanted::Start,
            };
            let answer = client.post(&request).await.map(|answer| answer.response.status);
            *told.lock().unwrap() = Some(answer);
        })
        .unwrap();
        answered.lock().unwrap().take().unwrap()
    };
    // An answer younger than a second is not asked for again.
    wait_until("it is found", || ask(format!("http://app.example:{port}/")) == Ok(204));
    let none: Result<u16, NoAnswer> = ask(format!("http://nobody.example:{port}/"));
    assert_eq!(none, Err(NoAnswer { phase: Phase::Name, why: "no such host".to_owned() }));
}

fn client(names: Names) -> Client {
    let tls = Tls::new(&Roots::new(Vec::new()).unwrap(), None).unwrap();
    Client::new(tls.clone(), tls, names, None)
}
