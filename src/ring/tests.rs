//! Real sockets on real rings: what is left behind after deadlines, drops, panics and ends.

use super::*;
use nix::libc;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn late() -> Instant {
    Instant::now() + PATIENCE
}

fn listening() -> (TcpListener, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Both ends of a connection, ours on the ring.
async fn pair() -> (Conn, TcpStream) {
    let (listener, addr) = listening();
    let stream = client(addr);
    let (conn, peer) = Listener::new(listener).accept().await.unwrap().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
    assert_eq!(conn.local_addr().unwrap(), addr);
    assert!(socket2::SockRef::from(&conn).tcp_nodelay().unwrap());
    (conn, stream)
}

fn sees_end(stream: &mut TcpStream) -> bool {
    let mut octets = Vec::new();
    match stream.read_to_end(&mut octets) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

fn socket_number(fd: impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

/// The sockets this process has open. Other tests' sockets are among them.
fn open_sockets() -> HashSet<u64> {
    let mut numbers = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if let Some(number) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            numbers.insert(number.parse().unwrap());
        }
    }
    numbers
}

/// Waits for a thread while the ring goes on.
async fn joined<T>(thread: thread::JoinHandle<T>) -> T {
    until_true(|| thread.is_finished()).await;
    thread.join().unwrap()
}

async fn until_true(mut condition: impl FnMut() -> bool) {
    let patience = late();
    while !condition() {
        assert!(Instant::now() < patience, "the condition never came true");
        sleep_until(Instant::now() + Duration::from_millis(1)).await;
    }
}

#[test]
fn two_thousand_timed_out_connections_leave_nothing_behind() {
    const CONNECTIONS: usize = 2_000;
    let (_, max) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, max.min(20_000), max).unwrap();
    let (listener, addr) = listening();
    let (to_clients, ended) = std::sync::mpsc::channel::<()>();
    let clients = thread::spawn(move || {
        let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| client(addr)).collect();
        ended.recv().unwrap();
        streams.iter_mut().map(|stream| stream.read(&mut [0; 16])).filter(|read| matches!(read, Ok(0))).count()
    });
    let numbers = run(async move {
        let listener = Listener::new(listener);
        let numbers = Rc::new(RefCell::new(HashSet::new()));
        let timed_out = Rc::new(Cell::new(0));
        for i in 0..CONNECTIONS {
            let (conn, _) = listener.accept().await.unwrap().unwrap();
            numbers.borrow_mut().insert(socket_number(&conn));
            let timed_out = Rc::clone(&timed_out);
            spawn(async move {
                let deadline = soon();
                let error = if i % 2 == 0 {
                    conn.readable(deadline).await.unwrap_err()
                } else {
                    let (result, buffer) = conn.read(Vec::with_capacity(4096), deadline).await;
                    assert_eq!((buffer.len(), buffer.capacity()), (0, 4096));
                    result.unwrap_err()
                };
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                timed_out.set(timed_out.get() + 1);
            });
        }
        drop(listener);
        until_true(|| timed_out.get() == CONNECTIONS && in_hand::operations() == 0).await;
        numbers.take()
    })
    .unwrap();
    assert_eq!(numbers.len(), CONNECTIONS);
    assert_eq!(numbers.intersection(&open_sockets()).count(), 0, "descriptors left behind");
    to_clients.send(()).unwrap();
    assert_eq!(clients.join().unwrap(), CONNECTIONS, "clients that saw the end");
}

#[test]
fn an_accept_that_is_drained_loses_no_connection() {
    const CONNECTIONS: usize = 400;
    let (listener, addr) = listening();
    let clients = thread::spawn(move || {
        for _ in 0..CONNECTIONS {
            let mut octet = [0];
            client(addr).read_exact(&mut octet).expect("every connection is served");
            assert_eq!(octet, *b"2");
        }
    });
    let stops = run(async move {
        let mut stops = 0;
        while !clients.is_finished() {
            let ring = Rc::new(Listener::new(listener.try_clone().unwrap()));
            let done = Rc::new(Cell::new(false));
            let (accepting, finished) = (Rc::clone(&ring), Rc::clone(&done));
            spawn(async move {
                while let Some(accepted) = accepting.accept().await {
                    let (conn, _) = accepted.unwrap();
                    conn.write_all(b"2".to_vec(), late()).await.0.unwrap();
                }
                finished.set(true);
            });
            // The pace at which listeners come and go under the clients.
            sleep_until(Instant::now() + Duration::from_millis(1)).await;
            ring.stop();
            until_true(|| done.get()).await;
            assert!(ring.accept().await.is_none());
            stops += 1;
        }
        clients.join().unwrap();
        stops
    })
    .unwrap();
    assert!(stops > 5, "the listener was stopped only {stops} times");
}

#[test]
fn a_dropped_accept_swallows_no_connection() {
    let (listener, addr) = listening();
    run(async move {
        let first = Listener::new(listener.try_clone().unwrap());
        // The future is dropped, the operation stays the listener's.
        assert!(timeout_at(soon(), first.accept()).await.is_none());
        let stream = client(addr);
        let (conn, peer) = first.accept().await.unwrap().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        drop(conn);
        // The listener is dropped while its operation is pending.
        assert!(timeout_at(soon(), first.accept()).await.is_none());
        drop(first);
        until_true(|| in_hand::operations() == 0).await;
        let stream = client(addr);
        let (_conn, peer) = Listener::new(listener).accept().await.unwrap().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    })
    .unwrap();
}

#[test]
fn a_peer_that_never_reads_gives_the_rest_back() {
    const OCTETS: usize = 32 * 1024 * 1024;
    run(async {
        let (conn, mut stream) = pair().await;
        let number = socket_number(&conn);
        let (result, octets) = conn.write_all(vec![7; OCTETS], soon()).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!octets.is_empty() && octets.len() < OCTETS, "what did not go: {}", octets.len());
        drop(conn);
        until_true(|| in_hand::operations() == 0 && !open_sockets().contains(&number)).await;
        joined(thread::spawn(move || assert!(sees_end(&mut stream)))).await;
    })
    .unwrap();
}

#[test]
fn all_is_written_and_read_across_short_waits() {
    const OCTETS: usize = 8 * 1024 * 1024;
    let sent: Vec<u8> = (0..OCTETS).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect();
    let expected = sent.clone();
    run(async move {
        let (conn, mut stream) = pair().await;
        let echo = thread::spawn(move || {
            let mut octets = vec![0; OCTETS];
            stream.read_exact(&mut octets).unwrap();
            stream.write_all(&octets).unwrap();
        });
        conn.write_all(sent, late()).await.0.unwrap();
        let mut back = Vec::with_capacity(OCTETS);
        while back.len() < OCTETS {
            conn.readable(late()).await.unwrap();
            let (result, buffer) = conn.read(back, late()).await;
            back = buffer;
            assert!(result.unwrap() > 0);
        }
        assert!(back == expected);
        let (result, mut back) = conn.read(back, late()).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput, "no spare octets is no EOF");
        back.clear();
        assert_eq!(conn.read(back, late()).await.0.unwrap(), 0, "EOF");
        joined(echo).await;
    })
    .unwrap();
}

#[test]
fn octets_that_race_with_a_cancellation_are_kept() {
    const OCTETS: u32 = 400;
    run(async {
        let (conn, mut stream) = pair().await;
        let (_kept, pace) = std::sync::mpsc::channel::<()>();
        let sender = thread::spawn(move || {
            for n in 0..OCTETS {
                stream.write_all(&n.to_le_bytes()[..1]).unwrap();
                // The pace that lets deadlines fall before, between and after the octets.
                pace.recv_timeout(Duration::from_micros(u64::from(n) * 797 % 2500)).unwrap_err();
            }
        });
        let (mut received, mut timed_out) = (Vec::with_capacity(4096), 0);
        loop {
            let deadline = Instant::now() + Duration::from_micros(1500);
            if received.len() % 3 == 0
                && let Err(error) = conn.readable(deadline).await
            {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            let (result, buffer) = conn.read(received, deadline).await;
            received = buffer;
            match result {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    timed_out += 1;
                }
            }
        }
        joined(sender).await;
        assert!(timed_out > 0, "no deadline fell between the octets");
        assert!(received.iter().copied().eq((0..OCTETS).map(|n| n.to_le_bytes()[0])));
    })
    .unwrap();
}

#[test]
fn a_cancelled_read_leaves_a_write_at_work() {
    run(async {
        let (conn, mut stream) = pair().await;
        let conn = Rc::new(conn);
        let done = Rc::new(Cell::new(false));
        let (reading, finished) = (Rc::clone(&conn), Rc::clone(&done));
        spawn(async move {
            let (result, _) = reading.read(Vec::with_capacity(16), soon()).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
            finished.set(true);
        });
        let (go, told) = std::sync::mpsc::channel::<()>();
        let reader = thread::spawn(move || {
            told.recv().unwrap();
            let mut octets = vec![0; 16 * 1024 * 1024];
            stream.read_exact(&mut octets).unwrap();
            assert!(octets.iter().all(|&octet| octet == 3));
        });
        let (writing, read_done) = (Rc::clone(&conn), Rc::clone(&done));
        spawn(async move {
            until_true(|| read_done.get()).await;
            go.send(()).unwrap();
        });
        writing.write_all(vec![3; 16 * 1024 * 1024], late()).await.0.unwrap();
        joined(reader).await;
    })
    .unwrap();
}

#[test]
fn dropped_futures_and_panics_leave_nothing_behind() {
    const OCTETS: usize = 32 * 1024 * 1024;
    run(async {
        let mut numbers = HashSet::new();
        for kind in 0..4 {
            let (conn, mut stream) = pair().await;
            numbers.insert(socket_number(&conn));
            let conn = match kind {
                0 => timeout_at(soon(), conn.readable(late())).await.map_or(Some(conn), |_| None),
                1 => timeout_at(soon(), conn.read(Vec::with_capacity(64), late())).await.map_or(Some(conn), |_| None),
                2 => timeout_at(soon(), conn.write_all(vec![1; OCTETS], late())).await.map_or(Some(conn), |_| None),
                _ => {
                    spawn(async move {
                        timeout_at(soon(), conn.readable(late())).await;
                        panic!("a task's panic ends its connection");
                    });
                    None
                }
            };
            // The client sees the end although we still hold the connection.
            joined(thread::spawn(move || assert!(sees_end(&mut stream)))).await;
            assert_eq!(conn.is_some(), kind < 3);
        }
        until_true(|| in_hand::operations() == 0 && numbers.is_disjoint(&open_sockets())).await;
    })
    .unwrap();
}

#[test]
fn the_end_of_main_ends_tasks_and_their_connections() {
    let (mut streams, numbers) = run(async {
        let (mut streams, mut numbers) = (Vec::new(), HashSet::new());
        for _ in 0..50 {
            let (conn, stream) = pair().await;
            numbers.insert(socket_number(&conn));
            streams.push(stream);
            spawn(async move {
                let (result, _) = conn.read(Vec::with_capacity(4096), late()).await;
                unreachable!("a read that nobody answers ended: {result:?}");
            });
        }
        (streams, numbers)
    })
    .unwrap();
    assert!(numbers.is_disjoint(&open_sockets()));
    assert!(streams.iter_mut().all(sees_end));
}

#[test]
fn a_panic_of_main_comes_through_after_the_ring_is_empty() {
    let number = std::sync::Mutex::new(0);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(async {
            let (conn, _stream) = pair().await;
            *number.lock().unwrap() = socket_number(&conn);
            spawn(async move { conn.readable(late()).await.unwrap_err().to_string().clear() });
            sleep_until(soon()).await;
            std::panic::resume_unwind(Box::new("the end"));
        })
    }));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "the end");
    assert!(!open_sockets().contains(&number.lock().unwrap()));
    run(async {}).unwrap();
}

#[test]
fn an_interrupt_ends_a_wait_and_nothing_else() {
    run(async {
        let (conn, mut stream) = pair().await;
        let interrupter = conn.interrupter();
        spawn(async move {
            sleep_until(soon()).await;
            interrupter.interrupt();
        });
        assert_eq!(conn.readable(late()).await.unwrap_err().kind(), io::ErrorKind::Interrupted);
        // Before a wait it is kept for that one.
        conn.interrupt();
        assert_eq!(conn.readable(late()).await.unwrap_err().kind(), io::ErrorKind::Interrupted);
        stream.write_all(b"still here").unwrap();
        conn.readable(late()).await.unwrap();
        let (result, octets) = conn.read(Vec::with_capacity(64), late()).await;
        assert_eq!((result.unwrap(), octets.as_slice()), (10, b"still here".as_slice()));
    })
    .unwrap();
}

#[test]
fn a_closed_connection_delivers_its_last_reply() {
    run(async {
        let (conn, mut stream) = pair().await;
        let peer = thread::spawn(move || {
            // What is in flight when the server closes would make a bare close a reset, and lose the reply.
            stream.write_all(&vec![b'x'; 100 * 1024]).unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            reply
        });
        conn.readable(late()).await.unwrap();
        conn.write_all(b"421 4.7.0 later\r\n".to_vec(), late()).await.0.unwrap();
        conn.close(PATIENCE).await;
        assert_eq!(joined(peer).await, "421 4.7.0 later\r\n");
    })
    .unwrap();
}

#[test]
fn what_is_written_last_arrives_with_the_end() {
    for octets in [1, 1000, 3_000_000] {
        run(async {
            let (conn, mut stream) = pair().await;
            let peer = thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all.len()
            });
            conn.write_last(vec![b'x'; octets], late()).await.0.unwrap();
            conn.close(PATIENCE).await;
            assert_eq!(joined(peer).await, octets);
        })
        .unwrap();
    }
}

#[test]
fn a_silent_peer_is_closed_after_the_linger() {
    run(async {
        let (conn, stream) = pair().await;
        let number = socket_number(&conn);
        conn.close(Duration::from_millis(50)).await;
        until_true(|| !open_sockets().contains(&number)).await;
        drop(stream);
    })
    .unwrap();
}

/// Runs the named test alone in a process of its own; in that process it returns true.
fn in_own_process(name: &str) -> bool {
    if std::env::var_os("MAILSLUICE_TEST_ALONE").is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("MAILSLUICE_TEST_ALONE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn without_descriptors_the_spare_one_accepts() {
    if !in_own_process("ring::tests::without_descriptors_the_spare_one_accepts") {
        return;
    }
    run(async {
        let (listener, addr) = listening();
        let listener = Listener::new(listener);
        let mut streams: Vec<TcpStream> = (0..4).map(|_| client(addr)).collect();
        let (_, max) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 200, max).unwrap();
        let mut others = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            others.push(file);
        }
        for stream in &mut streams[..2] {
            let (conn, _) = listener.accept().await.unwrap().unwrap();
            assert!(conn.on_spare());
            let error = listener.accept().await.unwrap().err().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "while the spare one is in use");
            conn.write_all(b"421".to_vec(), late()).await.0.unwrap();
            conn.close(Duration::ZERO).await;
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            assert_eq!(reply, "421");
        }
        others.clear();
        for _ in &streams[2..] {
            let (conn, _) = listener.accept().await.unwrap().unwrap();
            assert!(!conn.on_spare());
        }
    })
    .unwrap();
}

/// On this thread only, every io_uring_setup fails with this error from now on.
#[expect(unsafe_code, reason = "a seccomp filter is installed by prctl")]
fn forbid_io_uring(errno: i32) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the arguments are what these two calls take; the filter lives across the second.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn a_forbidden_io_uring_is_named() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let error = thread::spawn(move || {
            forbid_io_uring(errno);
            run(async {}).unwrap_err()
        })
        .join()
        .unwrap();
        assert!(matches!(SetupError::of(&error), Some(SetupError::Forbidden(_))), "{error}");
        assert!(error.to_string().contains("kernel.io_uring_disabled"), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    for (errno, word) in [(libc::ENOMEM, "LimitMEMLOCK"), (libc::EMFILE, "LimitNOFILE"), (libc::EINVAL, "5.19")] {
        let error = thread::spawn(move || {
            forbid_io_uring(errno);
            run(async {}).unwrap_err()
        })
        .join()
        .unwrap();
        assert!(!matches!(SetupError::of(&error), Some(SetupError::Forbidden(_))) && error.to_string().contains(word), "{error}");
    }
    probe().unwrap();
}

/// Octets that are always there do not carry a deadline on.
#[test]
fn nothing_is_begun_after_its_deadline() {
    run(async {
        let (conn, mut stream) = pair().await;
        stream.write_all(b"octets").unwrap();
        let past = Instant::now();
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        assert!(conn.readable(past).await.is_err_and(|error| is_late(&error)));
        assert!(conn.writable(true, past).await.is_err_and(|error| is_late(&error)));
        assert!(conn.read(Vec::with_capacity(16), past).await.0.is_err_and(|error| is_late(&error)));
        let (came, octets) = conn.read(Vec::with_capacity(16), late()).await;
        assert_eq!((came.unwrap(), octets.as_slice()), (6, b"octets".as_slice()), "the connection is as it was");
    })
    .unwrap();
}
