//! What `doctor` says of real servers that could take no mail, and of some that can.

use super::program;
use crate::support::certificates::{Authority, Files};
use crate::support::daemon::cli;
use crate::support::process::Process;
use crate::support::{Answer, Config, Endpoint, NameServer, Says, eventually, port};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

fn listens(port: u16) {
    eventually("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
}

/// Debian's nginx: in the clear, under TLS, and under TLS for those who show a certificate.
fn nginx(dir: &Path, files: &Files, authority: &Path, ports: [u16; 3]) -> Process {
    let [clear, tls, mutual] = ports;
    let at = |name: &str| dir.join(name).display().to_string();
    let secure = format!("ssl_certificate {};\nssl_certificate_key {};\n", files.certificate.display(), files.key.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};\n", at(kind))).concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen 127.0.0.1:{clear}; location / {{ return 204; }} }}\n\
         server {{ listen 127.0.0.1:{tls} ssl; {secure} location / {{ return 204; }} }}\n\
         server {{ listen 127.0.0.1:{mutual} ssl; {secure} ssl_client_certificate {}; ssl_verify_client on; location / {{ return 204; }} }}\n}}\n",
        at("nginx.pid"),
        authority.display(),
    );
    let config = dir.join("nginx.conf");
    std::fs::write(&config, text).unwrap();
    let process = Process::start(Command::new(program("nginx")).arg("-c").arg(config).arg("-e").arg("stderr"));
    ports.into_iter().for_each(listens);
    process
}

/// HTTP/2 and nothing else, under TLS or in the clear.
fn nghttpd(port: u16, files: Option<&Files>) -> Process {
    let mut command = Command::new(program("nghttpd"));
    command.arg("--address=127.0.0.1");
    match files {
        Some(files) => command.arg(port.to_string()).arg(&files.key).arg(&files.certificate),
        None => command.arg("--no-tls").arg(port.to_string()),
    };
    let process = Process::start(&mut command);
    listens(port);
    process
}

/// The line that `doctor` has for this URL.
fn finding(dir: &Path, url: &str, more: &[(&str, &str)]) -> String {
    let mut config = Config::without_routes().route("r", &["*"], url).set("store.path", dir.join("records.redb").to_str().unwrap());
    for (key, value) in more {
        config = config.of_route(key, *value);
    }
    let file = dir.join("doctor.toml");
    std::fs::write(&file, config.text()).unwrap();
    let found = cli(&["doctor", "--config", file.to_str().unwrap()]);
    let line = found.out.lines().find(|line| line.contains("route r: url"));
    line.unwrap_or_else(|| panic!("{url}: {}{}", found.out, found.err)).to_owned()
}

#[test]
fn what_doctor_says_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let server = authority.issue_into(dir.path(), "server", &["localhost"]);
    let client = authority.issue_into(dir.path(), "client", &["box.test"]);
    let stranger = Authority::new().issue_into(dir.path(), "stranger", &["box.test"]);
    let ports @ [clear, tls, mutual] = [port::free(), port::free(), port::free()];
    let _nginx = nginx(dir.path(), &server, &ca, ports);
    let (h2, h2c) = (port::free(), port::free());
    let _nghttpd = [nghttpd(h2, Some(&server)), nghttpd(h2c, None)];
    let ca = ca.to_str().unwrap();
    let trusting = ("ca_certificate", ca);
    let shows = |files: &Files| [files.certificate.to_str().unwrap().to_owned(), files.key.to_str().unwrap().to_owned()];
    let (known, unknown) = (shows(&client), shows(&stranger));
    fn with<'f>(trusting: (&'static str, &'f str), files: &'f [String; 2]) -> Vec<(&'static str, &'f str)> {
        vec![trusting, ("client_certificate", &files[0]), ("client_key", &files[1])]
    }
    // The URL, what the route has, the finding, its mend.
    for (url, more, what, mend) in [
        (format!("http://localhost:{clear}/in"), vec![], "ok ", ""),
        (format!("https://localhost:{tls}/in"), vec![trusting], "ok ", ""),
        (format!("https://localhost:{mutual}/in"), with(trusting, &known), "ok ", ""),
        (format!("http://localhost:{tls}/in"), vec![], "it wants TLS", "write https://localhost:"),
        (format!("http://localhost:{h2}/in"), vec![], "it wants TLS", "write https://localhost:"),
        (format!("https://localhost:{clear}/in"), vec![trusting], "answers in the clear", "write http://localhost:"),
        (format!("https://localhost:{tls}/in"), vec![], "no TLS: ", "set ca_certificate"),
        (format!("https://127.0.0.1:{tls}/in"), vec![trusting], "no TLS: ", "certificate"),
        (format!("https://localhost:{mutual}/in"), vec![trusting], "wants a client certificate", "set client_certificate and client_key"),
        (format!("https://localhost:{mutual}/in"), with(trusting, &unknown), "does not take ours", "to a pair that it accepts"),
        (format!("https://localhost:{h2}/in"), vec![trusting], "HTTP/2 only", "let it take HTTP/1.1"),
        (format!("http://localhost:{h2c}/in"), vec![], "HTTP/2 only", "let it take HTTP/1.1"),
    ] {
        let line = finding(dir.path(), &url, &more);
        assert!(line.contains(what) && line.contains(mend) && line.starts_with("ok") == (what == "ok "), "{url}: {line}");
    }
}

/// A name that only `dns.servers` knows, and one that nobody does.
#[test]
fn names_are_asked_for_as_the_daemon_does() {
    let dir = tempfile::tempdir().unwrap();
    let names = NameServer::start();
    names.say("app.test", Says::Addresses(60, vec!["127.0.0.1".parse().unwrap()]));
    // It closes the connection, as it is asked to.
    let endpoint = Endpoint::always(Answer::Octets(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()));
    let config = Config::without_routes()
        .set("store.path", dir.path().join("records.redb").to_str().unwrap())
        .set("dns.servers", vec![names.address.to_string()])
        .route("known", &["*@a.test"], &format!("http://app.test:{}/in", endpoint.address.port()))
        .route("unknown", &["*@b.test"], &format!("http://nobody.test:{}/in", endpoint.address.port()));
    let file = dir.path().join("doctor.toml");
    std::fs::write(&file, config.text()).unwrap();
    let found = cli(&["doctor", "--config", file.to_str().unwrap()]);
    let line = |route: &str| found.out.lines().find(|line| line.contains(&format!("route {route}: url"))).unwrap_or_default();
    assert!(line("known").starts_with("ok") && line("known").contains("reached"), "{}{}", found.out, found.err);
    assert!(line("unknown").contains("no such host"), "{}{}", found.out, found.err);
}
