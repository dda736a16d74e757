//! `mailsluice send`: submits messages over SMTP as another mail server would, and prints each reply. For trying out and for
//! handing a file in once more; it retries nothing.

mod line;
mod session;

use super::args::Send;
use super::choice::Choice;
use super::client::reachable;
use super::{Exit, Failure, print};
use crate::config::{Config, hostname};
use crate::message::sample;
use session::{Session, Verdict};
use std::io::{self, Read as _};
use std::path::PathBuf;

pub(super) fn run(config: &Choice, options: &Send) -> Result<(), Failure> {
    // The configuration is needed only for what the command line leaves open.
    let config = if options.server.is_none() || options.to.is_empty() {
        print(&format!("configuration: {}\n", config.name()))?;
        Some(config.load()?)
    } else {
        None
    };
    let own_name = hostname::fully_qualified().filter(|name| hostname::is_domain(name)).unwrap_or_else(|| "localhost".to_owned());
    let server = match (&options.server, &config) {
        (Some(server), _) => with_port(server),
        (None, Some(config)) => first_listener(config)?,
        (None, None) => with_port("localhost"),
    };
    let to = match &config {
        Some(config) if options.to.is_empty() => vec![some_recipient(config)],
        _ => options.to.clone(),
    };
    let from = options.from.clone().unwrap_or_else(|| format!("sender@{own_name}"));
    for address in to.iter().chain([&from]) {
        check_address(address)?;
    }
    let mut session = Session::open(&server, &own_name)?;
    let mut worst = Verdict::Taken;
    if options.files.is_empty() {
        worst = session.submit("sample", &from, &to, &sample::message(&from, &to, &own_name))?;
    }
    for path in &options.files {
        let message = read(path)?;
        worst = worst.max(session.submit(&path.display().to_string(), &from, &to, &message)?);
    }
    session.quit();
    match worst {
        Verdict::Taken => Ok(()),
        Verdict::Deferred => Err(Failure::new(Exit::Unavailable, format!("{server} deferred a message; send it again later"))),
        Verdict::Refused => Err(Failure::new(Exit::Data, format!("{server} refused a message; its reply says what to change"))),
    }
}

fn with_port(server: &str) -> String {
    let has_port =
        server.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') || host.ends_with(']') && port.parse::<u16>().is_ok());
    if has_port { server.to_owned() } else { format!("{server}:25") }
}

fn first_listener(config: &Config) -> Result<String, Failure> {
    match config.smtp.listen.first() {
        Some(address) => Ok(reachable(*address).to_string()),
        None => Err(Failure::new(Exit::Configuration, "smtp.listen is empty; name a server with --server HOST:PORT")),
    }
}

/// An address that the first route takes: its first glob with something in place of each star.
fn some_recipient(config: &Config) -> String {
    let glob = config.routes.first().and_then(|route| route.recipients.first()).map_or("*", String::as_str);
    let address = glob.replace("**", "*").replace('*', "test");
    if address.contains('@') { address } else { format!("{address}@{}", config.smtp.hostname) }
}

/// An address becomes part of a command line, so nothing in it may end that.
fn check_address(address: &str) -> Result<(), Failure> {
    if address.chars().any(|c| c.is_control() || c == '<' || c == '>') {
        return Err(Failure::new(Exit::Usage, format!("{address:?} is no address; write it as in a@example.com")));
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let octets = if path.as_os_str() == "-" {
        let mut octets = Vec::new();
        io::stdin().lock().read_to_end(&mut octets).map(|_| octets)
    } else {
        std::fs::read(path)
    };
    octets.map_err(|error| Failure::new(Failure::code_of(&error), format!("{}: {error}; name a message file", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    #[test]
    fn ports() {
        for (server, expected) in [
            ("mx.example.com", "mx.example.com:25"),
            ("mx.example.com:2525", "mx.example.com:2525"),
            ("[::1]:2525", "[::1]:2525"),
            ("[::1]", "[::1]:25"),
            ("127.0.0.1", "127.0.0.1:25"),
        ] {
            assert_eq!(with_port(server), expected);
        }
    }

    #[test]
    fn a_recipient_of_the_first_route() {
        for (glob, expected) in [
            ("*", "test@mx.example.com"),
            ("*@tickets.example.com", "test@tickets.example.com"),
            ("support+*@example.com", "support+test@example.com"),
            ("*@*", "test@test"),
            ("a@example.com", "a@example.com"),
        ] {
            let text =
                format!("[smtp]\nhostname = \"mx.example.com\"\n[[route]]\nrecipients = [\"{glob}\"]\nurl = \"http://localhost/\"\n");
            let config = Config::parse(crate::config::Origin::Development, &text).expect("good");
            let route = crate::route::Routes::new(&config.routes);
            let address = some_recipient(&config);
            assert_eq!(address, expected);
            assert!(route.find(&address).is_some(), "{address}");
        }
    }

    /// A server that says each line of its script after one line of the client's (none before the first).
    fn scripted(script: &'static [&'static str]) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let mut heard = String::new();
            for line in script {
                reader.get_mut().write_all(line.as_bytes()).expect("it reads");
                let data = line.starts_with("354");
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).expect("a line") == 0 {
                        return heard;
                    }
                    heard.push_str(&line);
                    if !data || line == ".\r\n" {
                        break;
                    }
                }
            }
            heard
        });
        (address, server)
    }

    fn send(server: &str, to: &[&str], files: &[PathBuf]) -> Result<(), Failure> {
        let to = to.iter().map(|&address| address.to_owned()).collect();
        run(
            &Choice::Development,
            &Send { to, from: Some("a@b.example".to_owned()), server: Some(server.to_owned()), files: files.to_vec() },
        )
    }

    #[test]
    fn a_transaction() {
        let (server, heard) = scripted(&[
            "220 mx\r\n",
            "250-mx\r\n250-SIZE 1000\r\n250 8BITMIME\r\n",
            "250 2.1.0 Ok\r\n",
            "550 5.1.1 no\r\n",
            "250 2.1.5 Ok\r\n",
            "354 go\r\n",
            "250 2.0.0 Ok: id\r\n",
            "221 bye\r\n",
        ]);
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("a.eml");
        std::fs::write(&file, "Subject: x\n\n.ä\n").expect("it can be written");
        let failure = send(&server, &["no@c.example", "yes@c.example"], &[file]).expect_err("one recipient was refused");
        assert_eq!(failure.exit, Exit::Data);
        let heard = heard.join().expect("it ends");
        let (ehlo, rest) = heard.split_once("\r\n").expect("lines");
        assert!(ehlo.starts_with("EHLO "), "{ehlo}");
        assert_eq!(
            rest,
            "MAIL FROM:<a@b.example> SIZE=19 BODY=8BITMIME\r\nRCPT TO:<no@c.example>\r\nRCPT TO:<yes@c.example>\r\nDATA\r\n\
             Subject: x\r\n\r\n..ä\r\n.\r\nQUIT\r\n"
        );
    }

    #[test]
    fn codes() {
        let table: [(&[&str], Option<Exit>); 8] = [
            (&["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "250 Ok\r\n", "221 bye\r\n"], None),
            (&["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "554 5.7.1 no\r\n", "221 bye\r\n"], Some(Exit::Data)),
            (
                &["220 mx\r\n", "250 mx\r\n", "250 Ok\r\n", "250 Ok\r\n", "354 go\r\n", "450 4.3.0 later\r\n", "221 bye\r\n"],
                Some(Exit::Unavailable),
            ),
            // STARTTLS that is not to be had now: what comes is as if it had not been offered.
            (
                &[
                    "220 mx\r\n",
                    "250-mx\r\n250 STARTTLS\r\n",
                    "454 not now\r\n",
                    "250 Ok\r\n",
                    "250 Ok\r\n",
                    "354 go\r\n",
                    "250 Ok\r\n",
                    "221 bye\r\n",
                ],
                None,
            ),
            // What is said in the clear behind STARTTLS must not pass for encrypted.
            (&["220 mx\r\n", "250-mx\r\n250 STARTTLS\r\n", "220 go\r\n250-mx\r\n250 Ok\r\n"], Some(Exit::Unavailable)),
            (&["421 4.7.0 full\r\n"], Some(Exit::Unavailable)),
            (&["554 no\r\n"], Some(Exit::Data)),
            (&["HTTP/1.1 400 Bad Request\r\n"], Some(Exit::Unavailable)),
        ];
        for (script, expected) in table {
            let script: &'static [&'static str] = Vec::leak(script.to_vec());
            let (server, heard) = scripted(script);
            let got = send(&server, &["c@d.example"], &[]).err().map(|failure| failure.exit);
            assert_eq!(got, expected, "{script:?}");
            heard.join().expect("it ends");
        }
    }

    #[test]
    fn nothing_is_smuggled_into_a_command() {
        let failure = send("127.0.0.1:1", &["a@b>\r\nRSET"], &[]).expect_err("it is no address");
        assert_eq!(failure.exit, Exit::Usage);
        let failure = send("127.0.0.1:1", &["a@b"], &[]).expect_err("nobody listens");
        assert_eq!(failure.exit, Exit::Unavailable);
    }
}
