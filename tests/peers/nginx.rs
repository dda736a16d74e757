//! Endpoints behind servers that people have: nginx that demands a client certificate, gunicorn and puma on Unix sockets.

use crate::support::client::deliver;
use crate::support::process::Process;
use crate::support::{Config, Daemon, PATIENCE, certificates, eventually, messages, port, turn};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// nginx in the foreground, in a directory of its own. It asks every client who it is, and writes that down.
fn nginx(dir: &Path, port: u16, server: &certificates::Files) -> Process {
    let path = dir.display();
    let text = format!(
        "daemon off; master_process off; pid {path}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
         log_format shown '$status $ssl_client_verify $ssl_client_serial'; access_log {path}/access.log shown;\n\
         client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path}; uwsgi_temp_path {path}; scgi_temp_path {path};\n\
         keepalive_requests 3;\n\
         server {{\n\
         listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
         ssl_client_certificate {path}/ca.pem; ssl_verify_client on;\n\
         location / {{ return 200 taken; }}\n\
         }} }}\n",
        server.certificate.display(),
        server.key.display()
    );
    std::fs::write(dir.join("nginx.conf"), text).unwrap();
    let process = Process::start(Command::new(super::program("nginx")).arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")));
    eventually("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

/// Who was let in, by the certificates' serial numbers.
fn serials(dir: &Path) -> BTreeSet<String> {
    let log = std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    log.lines().filter_map(|line| Some(line.strip_prefix("200 SUCCESS ")?.to_owned())).collect()
}

#[test]
fn a_client_certificate_is_renewed_while_mail_flows() {
    let _turn = turn::shared();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let authority = certificates::Authority::new();
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let server = authority.issue_into(dir.path(), "server", &["localhost"]);
    let client = authority.issue_into(dir.path(), "client", &["mailsluice.test"]);
    let port = port::free();
    let _nginx = nginx(dir.path(), port, &server);
    let url = format!("https://localhost:{port}/in");
    let config = Config::without_routes()
        .route("known", &["*@known.test"], &url)
        .of_route("ca_certificate", dir.path().join("ca.pem").to_str().unwrap())
        .of_route("client_certificate", client.certificate.to_str().unwrap())
        .of_route("client_key", client.key.to_str().unwrap())
        .route("unknown", &["*"], &url)
        .of_route("ca_certificate", dir.path().join("ca.pem").to_str().unwrap());
    let daemon = Daemon::start_in(Arc::clone(&dir), config);
    // Without a certificate nginx says 400, which is an answer.
    deliver(daemon.smtp(), "a@sender.test", &["b@unknown.test"], &messages::simple("x", "text")).starts("554 ");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                deliver(daemon.smtp(), "a@sender.test", &["b@known.test"], &messages::simple(&format!("n{n}"), "text")).starts("250 ");
            }
        });
        eventually("the first certificate", || (serials(dir.path()).len() == 1).then_some(()));
        authority.issue_into(dir.path(), "client", &["mailsluice.test"]);
        eventually("the renewed certificate", || (sender.is_finished() || serials(dir.path()).len() == 2).then_some(()));
        over.store(true, Ordering::Relaxed);
        sender.join().unwrap();
    });
    assert_eq!(daemon.admin.stat("messages.deferred"), 0);
}

/// A WSGI application that writes down what it is asked.
const APPLICATION: &str = r#"
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    with open("asked", "a") as asked:
        print(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"], len(body), file=asked)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"taken"]
"#;

/// The same as a Rack application.
const RACK_APPLICATION: &str = r#"
run lambda { |env|
  body = env["rack.input"].read
  File.open("asked", "a") do |asked|
    asked.puts [env["REQUEST_METHOD"], env["PATH_INFO"], env["QUERY_STRING"], env["HTTP_HOST"], body.bytesize].join(" ")
  end
  [200, { "Content-Type" => "text/plain" }, ["taken"]]
}
"#;

fn listening(command: &mut Command, dir: &Path) -> Process {
    let process = Process::start(command.current_dir(dir).env("HOME", dir).env("PYTHONDONTWRITEBYTECODE", "1"));
    eventually("the application", || std::os::unix::net::UnixStream::connect(dir.join("app.sock")).ok());
    process
}

fn gunicorn(dir: &Path) -> Process {
    std::fs::write(dir.join("application.py"), APPLICATION).unwrap();
    let mut command = Command::new(super::program("gunicorn"));
    command.args(["--bind", "unix:app.sock", "--workers", "1", "--log-level", "error", "--worker-tmp-dir", ".", "application:application"]);
    listening(&mut command, dir)
}

fn puma(dir: &Path) -> Process {
    std::fs::write(dir.join("config.ru"), RACK_APPLICATION).unwrap();
    let mut command = Command::new(super::program("puma"));
    command.args(["--bind", "unix://app.sock", "--threads", "1:2", "--environment", "production", "--quiet", "config.ru"]);
    listening(&mut command, dir)
}

/// It is there, goes, and comes again.
fn is_asked_on_a_unix_socket(application: fn(&Path) -> Process) {
    let _turn = turn::shared();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("unix:{}:/inbound/{{local}}?tag={{tag}}", dir.path().join("app.sock").display());
    let config = Config::without_routes().route("app", &["*"], &url).of_route("format", "rfc822");
    let daemon = Daemon::start(config);
    let message = messages::of_size("large", 200_000);
    let deliver = || deliver(daemon.smtp(), "a@sender.test", &["ann+1@x.test"], &message);
    deliver().starts("450 4.4.1 ");
    let mut running = application(dir.path());
    deliver().starts("250 ");
    deliver().starts("250 ");
    running.signal(Signal::SIGTERM);
    running.wait(PATIENCE);
    deliver().starts("450 4.4.1 ");
    let mut running = application(dir.path());
    deliver().starts("250 ");
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    let line = format!("POST /inbound/ann tag=1 localhost {}", message.len());
    assert_eq!(asked.lines().collect::<Vec<_>>(), [line.as_str(); 3]);
    running.signal(Signal::SIGTERM);
    running.wait(PATIENCE);
}

#[test]
fn gunicorn_on_a_unix_socket() {
    is_asked_on_a_unix_socket(gunicorn);
}

#[test]
fn puma_on_a_unix_socket() {
    is_asked_on_a_unix_socket(puma);
}
