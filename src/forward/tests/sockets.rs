//! Endpoints on Unix sockets.

use super::*;
use std::os::unix::net::UnixListener;

/// A server on a Unix socket: what it was asked, answer by answer.
fn serve(path: &std::path::Path, answers: Vec<&'static str>) -> Arc<Mutex<Vec<Request>>> {
    let listener = UnixListener::bind(path).unwrap();
    let seen = Arc::<Mutex<Vec<Request>>>::default();
    let told = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some(request) = Request::whole(&mut reader) {
                told.lock().unwrap().push(request);
                stream.write_all(answers.next().unwrap_or(OK).as_bytes()).unwrap();
            }
        }
    });
    seen
}

#[test]
fn a_socket_is_asked_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app: with a colon.sock");
    let redirect = "HTTP/1.1 307 There\r\nLocation: /other?y\r\nContent-Length: 0\r\n\r\n";
    let away = "HTTP/1.1 307 There\r\nLocation: http://localhost/x\r\nContent-Length: 0\r\n\r\n";
    let seen = serve(&path, vec![OK, redirect, OK, away]);
    let rig = Rig::new(&route("r", &format!("unix:{}:/inbound?x=1", path.display()), "headers = { X-Tenant = \"42\" }"));
    let message = vec![b'm'; 1_000_000];
    assert_eq!(rig.send(&message).unwrap().status, 200);
    assert_eq!(rig.send(b"m").unwrap().status, 200, "a redirect that is relative");
    let response = rig.send(b"m").unwrap();
    assert_eq!((response.status, response.redirect_refused.as_deref()), (307, Some("redirect away from a socket")));
    let requests = std::mem::take(&mut *seen.lock().unwrap());
    let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, ["POST /inbound?x=1 HTTP/1.1", "POST /inbound?x=1 HTTP/1.1", "POST /other?y HTTP/1.1", "POST /inbound?x=1 HTTP/1.1"]);
    for request in &requests {
        assert_eq!((request.field("host"), request.field("x-tenant")), (Some("localhost"), Some("42")));
    }
    assert!(requests[0].body == message);
}

#[test]
fn a_socket_that_is_not_there_is_not_reached() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(&route("r", &format!("unix:{}/none.sock", dir.path().display()), ""));
    let why = not_reached(rig.send(b"m"));
    assert!(why.starts_with("connect: No such file"), "{why}");
}
