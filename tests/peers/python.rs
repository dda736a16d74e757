//! Python: smtplib as a sender, `email` and `json` as readers of what the endpoint got, `standardwebhooks` as a verifier.

use crate::support::process::run;
use crate::support::{Config, Daemon, Endpoint, PATIENCE};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter with the modules of `tests/peers.list`.
#[track_caller]
pub(super) fn interpreter() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/venv/bin/python");
    assert!(python.exists(), "{} is missing: tests/test.sh makes it", python.display());
    python
}

/// Runs a script of `tests/peers` to its end; its standard output.
#[track_caller]
pub(super) fn script(name: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
    // A first import compiles what it reads.
    run(Command::new(interpreter()).arg(script).args(arguments), PATIENCE * 4).ok()
}

#[test]
fn smtplib_delivers_in_every_way_it_knows() {
    let endpoint = Endpoint::ok();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let authority = crate::support::certificates::Authority::new();
    let files = authority.issue_into(dir.path(), "mx", &["mx.test", "localhost"]);
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let ca = dir.path().join("ca.pem");
    let config = Config::to(&endpoint)
        .set("smtp.tls.certificate", files.certificate.to_str().unwrap())
        .set("smtp.tls.private_key", files.key.to_str().unwrap());
    let daemon = Daemon::start_in(dir, config);
    let out = script("send.py", &[&daemon.smtp().port().to_string(), ca.to_str().unwrap()]);
    assert_eq!(out.trim(), "plain, 8-bit, utf8, tls, refused");
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 4);
    for (request, text) in requests.iter().zip(["plain text", "Grüße", "用户", "secret text"]) {
        assert!(String::from_utf8_lossy(&request.body).contains(text), "{text}");
    }
}

/// Messages whose attachments, texts and headers Python's `email` package reads for itself.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let mixed = |parts: &[&str]| {
        let mut text = String::from(
            "From: alice@sender.test\r\nTo: bob@example.test\r\nSubject: parts\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n",
        );
        for part in parts {
            text.push_str("--b\r\n");
            text.push_str(part);
            text.push_str("\r\n");
        }
        text.push_str("--b--\r\n");
        text.into_bytes()
    };
    let every_octet: String = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode((0..=255).cycle().take(5000).collect::<Vec<u8>>())
    };
    let lines = every_octet.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\r\n");
    vec![
        ("plain", crate::support::messages::simple("hello", "some text")),
        ("html", b"Subject: h\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\xc3\xa9</p>\r\n".to_vec()),
        ("latin1", b"Subject: =?iso-8859-1?Q?=E9t=E9?=\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xe9t\xe9\r\n".to_vec()),
        ("koi8", b"Content-Type: text/plain; charset=koi8-r\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=F0=D2=C9=D7=C5=D4\r\n".to_vec()),
        ("shift_jis", b"Content-Type: text/plain; charset=shift_jis\r\n\r\n\x93\xfa\x96\x7b\r\n".to_vec()),
        ("repeated", b"Received: one\r\nReceived: two\r\n\tfolded\r\nX-Same: a\r\nSubject: r\r\nX-Same: b\r\n\r\ntext\r\n".to_vec()),
        ("every-octet", mixed(&[
            "Content-Type: text/plain\r\n\r\nsee attachment",
            &format!("Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"all.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{lines}"),
        ])),
        ("inline-image", mixed(&[
            "Content-Type: text/html\r\n\r\n<img src=\"cid:i@x\">",
            "Content-Type: image/gif; name=\"i.gif\"\r\nContent-Disposition: inline; filename=\"i.gif\"\r\nContent-ID: <i@x>\r\nContent-Transfer-Encoding: base64\r\n\r\nR0lGODlhAQABAAAAACw=",
        ])),
        ("names", mixed(&[
            "\r\ntext",
            "Content-Type: text/csv\r\nContent-Disposition: attachment; filename*0=\"long \"; filename*1=\"name.csv\"\r\n\r\n1,2",
            "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename*=iso-8859-1''caf%E9.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==",
            "Content-Type: application/zip; name=\"quote\\\"d.zip\"\r\nContent-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\nUEsDBA==",
        ])),
        ("winmail", mixed(&[
            "\r\ntext",
            "Content-Type: application/ms-tnef; name=\"winmail.dat\"\r\nContent-Disposition: attachment; filename=\"winmail.dat\"\r\nContent-Transfer-Encoding: base64\r\n\r\neJ8+IgAA",
        ])),
        ("alternative", b"Subject: a\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\nplain text\r\n--c\r\nContent-Type: text/html\r\n\r\n<b>html</b>\r\n--c--\r\n".to_vec()),
        ("related", b"Content-Type: multipart/related; boundary=c\r\n\r\n--c\r\nContent-Type: multipart/alternative; boundary=d\r\n\r\n--d\r\n\r\nplain\r\n--d\r\nContent-Type: text/html\r\n\r\n<i>x</i>\r\n--d--\r\n--c\r\nContent-Type: image/png\r\nContent-ID: <p@x>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--c--\r\n".to_vec()),
        ("forwarded", mixed(&["\r\nsee below", "Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner text"])),
        ("quoted-printable", mixed(&[
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nsoft=\r\n break =C3=A9",
            "Content-Type: application/x-thing\r\nContent-Disposition: attachment; filename=t\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=00b=FF",
        ])),
    ]
}

#[test]
fn every_form_is_read_back_by_parsers_of_others() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let endpoint = Endpoint::ok();
    for format in ["json", "multipart", "raw"] {
        let daemon = Daemon::start(Config::to(&endpoint).of_route("format", format));
        for (name, message) in corpus() {
            endpoint.clear();
            crate::support::client::deliver(daemon.smtp(), "alice@sender.test", &["bob@example.test"], &message).starts("250 ");
            let request = endpoint.only();
            let fields: Vec<String> =
                request.fields.0.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
            std::fs::write(dir.path().join(format!("{name}.eml")), &message).unwrap();
            std::fs::write(dir.path().join(format!("{name}.{format}.fields")), fields.join("\n")).unwrap();
            std::fs::write(dir.path().join(format!("{name}.{format}.body")), &request.body).unwrap();
        }
    }
    let out = script("formats.py", &[dir.path().to_str().unwrap()]);
    assert_eq!(out.trim(), corpus().len().to_string());
}

#[test]
fn signatures_are_verified_by_another_implementation() {
    let (first, second, other) = (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    );
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint).of_route("format", "json").of_route("signing_secret", vec![first, second]));
    crate::support::client::deliver(daemon.smtp(), "a@sender.test", &["b@example.test"], &crate::support::messages::simple("x", "text"));
    let request = endpoint.only();
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("body");
    std::fs::write(&body, &request.body).unwrap();
    let (id, timestamp, signature) = (request.field("webhook-id"), request.field("webhook-timestamp"), request.field("webhook-signature"));
    assert_eq!(signature.split(' ').count(), 2, "{signature}");
    let out = script("verify_signature.py", &[body.to_str().unwrap(), id, timestamp, signature, first, second, other]);
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["yes", "yes", "no"]);
    // Another body, another id: no.
    let mut changed = request.body.clone();
    *changed.last_mut().unwrap() = b' ';
    std::fs::write(&body, &changed).unwrap();
    assert_eq!(script("verify_signature.py", &[body.to_str().unwrap(), id, timestamp, signature, first]).trim(), "no");
}
