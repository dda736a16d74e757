//! The transcripts of `tests/dialogs`, over real sockets. Their form is told in `README.md` there.

#[path = "../dialogs/transcript.rs"]
mod transcript;

use crate::support::certificates::Authority;
use crate::support::{Client, Config, Daemon, Endpoint, Request};
use std::sync::Arc;
use transcript::{Step, Transcript};

#[test]
fn every_transcript() {
    for transcript in transcript::all() {
        as_written(&transcript);
    }
}

fn as_written(transcript: &Transcript) {
    let name = &transcript.name;
    let endpoint = Endpoint::ok();
    let authority = Authority::new();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = Config::to(&endpoint);
    if transcript.tls {
        let files = authority.issue_into(dir.path(), "mx", &["mx.test"]);
        config = config
            .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
            .set("smtp.tls.private_key", files.key.to_str().unwrap());
    }
    for (key, value) in &transcript.settings {
        config = match key.strip_prefix("route.") {
            Some(key) => config.of_route(key, value.clone()),
            None => config.set(key, value.clone()),
        };
    }
    let daemon = Daemon::start_in(dir, config);
    let mut client = Client::connect(daemon.smtp());
    let mut to_send = Vec::new();
    let mut messages: Vec<Arc<Request>> = Vec::new();
    let mut recipients = Vec::new();
    for (at, step) in &transcript.steps {
        if !to_send.is_empty() && !matches!(step, Step::Send(_)) {
            client.try_send(std::mem::take(&mut to_send)).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        match step {
            Step::Send(octets) => to_send.extend_from_slice(octets),
            Step::Reply(expected) => {
                let reply = client.try_reply().unwrap_or_else(|error| panic!("{at}: {error} instead of {expected:?}"));
                assert!(reply.text().starts_with(expected), "{at}: {:?} instead of {expected:?}", reply.lines);
            }
            Step::Handshake => {
                client.handshake(authority.client(rustls::ALL_VERSIONS)).unwrap_or_else(|error| panic!("{at}: {error}"));
            }
            Step::Closed => client.closed(),
            Step::Message(octets) => {
                assert!(recipients.is_empty(), "{at}: more recipients before: {recipients:?}");
                let requests = endpoint.wait_for(messages.len() + 1);
                let message = Arc::clone(&requests[messages.len()]);
                assert_eq!(message.body.escape_ascii().to_string(), octets.escape_ascii().to_string(), "{at}");
                messages.push(message);
            }
            Step::From(mailbox) => assert_eq!(decoded(messages.last().unwrap().field("mailsluice-mail-from")), *mailbox, "{at}"),
            Step::To(mailbox) => {
                if recipients.is_empty() {
                    recipients =
                        messages.last().unwrap().fields.all("mailsluice-rcpt-to").flat_map(|all| all.split(',')).map(decoded).collect();
                }
                assert_eq!(recipients.remove(0), *mailbox, "{at}");
            }
        }
    }
    assert!(to_send.is_empty() && recipients.is_empty(), "{name}: left over: {recipients:?}");
    assert_eq!(endpoint.count(), messages.len(), "{name}: messages at the endpoint");
}

/// Field values are percent-encoded where they are not printable ASCII.
fn decoded(value: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", value.replace('+', "%2B").replace('&', "%26")).as_bytes()).next().unwrap().1.into_owned()
}
