//! The shape of every format, field by field, on the messages of `tests/messages`; and what must hold of any octets.

use super::{Rendered, render};
use crate::config::{Attachments, Format, Route, Target, Verify};
use crate::envelope::{Envelope, Peer};
use crate::message::OverBudget;
use crate::verify::{SpfResult, Verification};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ALL: [Format; 5] = [Format::Json, Format::Multipart, Format::Raw, Format::Rfc822, Format::Rails];

fn route(format: Format) -> Route {
    Route {
        name: "test".to_owned(),
        recipients: vec!["*".to_owned()],
        target: Arc::new(Target { url: "http://endpoint.example/".parse().unwrap(), headers: Vec::new() }),
        templates: None,
        socket: None,
        authorization: None,
        format,
        attachments: Attachments::Embed,
        timeout: Duration::from_secs(30),
        max_concurrency: 1,
        adaptive: true,
        defer_statuses: Vec::new(),
        signing_secrets: Vec::new(),
        authorize_url: None,
        authorize_socket: None,
        authorize_authorization: None,
        authorize_to: Vec::new(),
        verify: Verify::default(),
        scan: None,
        ca_certificate: None,
        identity: None,
        max_message_size: None,
    }
}

fn envelope() -> Envelope {
    Envelope {
        peer: Peer { ip: "192.0.2.1".parse().unwrap(), port: 25 },
        helo: "mail.example.com".to_owned(),
        reverse_path: "sender@example.com".to_owned(),
        recipients: vec!["one@example.org".to_owned(), "two@example.org".to_owned()],
        declared_size: None,
        smtputf8: false,
        tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384".to_owned()),
    }
}

fn checked() -> Verification {
    Verification {
        spf: Some(SpfResult { result: "pass", domain: "example.com".to_owned() }),
        dkim: Some(json!({"success": true, "result": [{"result": "pass", "domain": "example.com", "selector": "s\u{0}"}]})),
        dmarc: Some(json!({"success": false, "result": "fail", "details": {"domain": "exämple.com", "policy": null}})),
        spam: Some(json!({"score": -1.5, "required": 15.0, "action": "no action", "symbols": ["A", "B"]})),
    }
}

/// Renders; the length said must be the length of the pieces.
fn render_all(route: &Route, envelope: &Envelope, verification: &Verification, message: &[u8]) -> (Rendered, Vec<u8>) {
    let rendered = render(route, envelope, verification, message, &mut |_| Ok(())).unwrap();
    let body = rendered.slices(message).collect::<Vec<_>>().concat();
    assert_eq!(body.len() as u64, rendered.len);
    (rendered, body)
}

pub(super) fn body_of(format: Format, message: &[u8]) -> Vec<u8> {
    render_all(&route(format), &envelope(), &Verification::default(), message).1
}

pub(super) fn json_of(message: &[u8]) -> Value {
    serde_json::from_slice(&body_of(Format::Json, message)).unwrap()
}

fn messages() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages");
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "eml"));
    files.sort();
    assert!(files.len() >= 20, "the messages are not where they should be");
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn json_of_each_message_is_as_expected_in_content_and_order() {
    for (path, message) in messages() {
        let mut value = json_of(&message);
        let fields: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["headers", "envelope", "plain", "html", "reply_plain", "attachments"]);
        value.as_object_mut().unwrap().shift_remove("envelope");
        let expected = std::fs::read_to_string(path.with_extension("json")).unwrap();
        assert_eq!(serde_json::to_string_pretty(&value).unwrap() + "\n", expected, "{}", path.display());
    }
}

#[test]
fn json_envelope() {
    let message = b"Subject: x\r\n\r\ntext\r\n";
    let expected = json!({
        "to": "one@example.org",
        "recipients": ["one@example.org", "two@example.org"],
        "from": "sender@example.com",
        "helo_domain": "mail.example.com",
        "remote_ip": "192.0.2.1",
        "tls": true,
    });
    assert_eq!(json_of(message)["envelope"], expected, "a check that was not made is absent");

    let bounce = Envelope {
        peer: Peer { ip: "2001:db8::1".parse().unwrap(), port: 25 },
        helo: "quo\"te".to_owned(),
        reverse_path: String::new(),
        recipients: vec!["jürgen@example.org".to_owned()],
        tls: None,
        ..envelope()
    };
    let (rendered, body) = render_all(&route(Format::Json), &bounce, &checked(), message);
    assert_eq!(rendered.content_type, "application/json");
    assert!(rendered.headers.is_empty());
    let expected = json!({
        "to": "jürgen@example.org",
        "recipients": ["jürgen@example.org"],
        "from": "",
        "helo_domain": "quo\"te",
        "remote_ip": "2001:db8::1",
        "tls": false,
        "spf": {"result": "pass", "domain": "example.com"},
        "dkim": {"success": true, "result": [{"result": "pass", "domain": "example.com", "selector": "s\u{fffd}"}]},
        "dmarc": {"success": false, "result": "fail", "details": {"domain": "exämple.com", "policy": null}},
        "spam": {"score": -1.5, "required": 15.0, "action": "no action", "symbols": ["A", "B"]},
    });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["envelope"], expected);
}

#[test]
fn metadata_is_every_field_but_the_content() {
    for (path, message) in messages() {
        let mut expected = json_of(&message)["attachments"].clone();
        for attachment in expected.as_array_mut().unwrap() {
            attachment.as_object_mut().unwrap().shift_remove("content").unwrap();
        }
        let metadata = Route { attachments: Attachments::Metadata, ..route(Format::Json) };
        let (_, body) = render_all(&metadata, &envelope(), &Verification::default(), &message);
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["attachments"], expected, "{}", path.display());

        let metadata = Route { format: Format::Multipart, ..metadata };
        let form = Form::parse(&render_all(&metadata, &envelope(), &Verification::default(), &message));
        for (at, attachment) in expected.as_array().unwrap().iter().enumerate() {
            for (name, value) in attachment.as_object().unwrap() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                assert_eq!(form.text(&format!("attachments[{at}][{name}]")), value, "{}", path.display());
            }
        }
        assert!(form.files().is_empty());
    }
}

/// A field of a form: name, file name, type, content.
struct FormField {
    name: String,
    file_name: Option<String>,
    content_type: Option<String>,
    content: Vec<u8>,
}

/// A form parsed back in the plainest way.
struct Form(Vec<FormField>);

impl Form {
    fn parse((rendered, body): &(Rendered, Vec<u8>)) -> Self {
        let boundary = rendered.content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        assert!(boundary.len() <= 70 && boundary.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-'));
        let delimiter = format!("\r\n--{boundary}");
        let framed = [b"\r\n", body.as_slice()].concat();
        let starts: Vec<usize> = memchr::memmem::find_iter(&framed, &delimiter).collect();
        assert!(framed.ends_with(format!("{delimiter}--\r\n").as_bytes()));
        let fields = starts.windows(2).map(|pair| {
            let part = framed[pair[0] + delimiter.len()..pair[1]].strip_prefix(b"\r\n").unwrap();
            let head_end = memchr::memmem::find(part, b"\r\n\r\n").unwrap();
            let head = std::str::from_utf8(&part[..head_end]).unwrap();
            let (disposition, content_type) = match head.split_once("\r\n") {
                Some((disposition, content_type)) => (disposition, Some(content_type.strip_prefix("Content-Type: ").unwrap().to_owned())),
                None => (head, None),
            };
            let names = disposition.strip_prefix("Content-Disposition: form-data; name=\"").unwrap().strip_suffix('"').unwrap();
            let (name, file_name) = match names.split_once("\"; filename=\"") {
                Some((name, file_name)) => (name, Some(file_name.replace("%22", "\""))),
                None => (names, None),
            };
            FormField {
                name: name.replace("%22", "\"").replace("%5C", "\\"),
                file_name,
                content_type,
                content: part[head_end + 4..].to_vec(),
            }
        });
        Self(fields.collect())
    }

    fn of(format: Format, message: &[u8]) -> Self {
        Self::parse(&render_all(&route(format), &envelope(), &Verification::default(), message))
    }

    fn text(&self, name: &str) -> String {
        let found: Vec<&FormField> = self.0.iter().filter(|field| field.name == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!((&found[0].file_name, &found[0].content_type), (&None, &None), "{name} is a plain field");
        String::from_utf8(found[0].content.clone()).unwrap()
    }

    fn files(&self) -> Vec<&FormField> {
        self.0.iter().filter(|field| field.file_name.is_some()).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|field| field.name.as_str()).collect()
    }
}

/// The files of a form: names and contents.
pub(super) fn form_of(format: Format, message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let files = Form::of(format, message).0.into_iter().filter_map(|field| Some((field.file_name?, field.content)));
    files.collect()
}

#[test]
fn multipart_says_the_same_as_json() {
    for (path, message) in messages() {
        let json = json_of(&message);
        let form = Form::of(Format::Multipart, &message);
        for name in ["plain", "html", "reply_plain"] {
            assert_eq!(form.text(name), json[name], "{} {name}", path.display());
        }
        for (name, value) in json["headers"].as_object().unwrap() {
            let Some(values) = value.as_array() else {
                assert_eq!(form.text(&format!("headers[{name}]")), *value, "{}", path.display());
                continue;
            };
            for (at, value) in values.iter().enumerate() {
                assert_eq!(form.text(&format!("headers[{name}][{at}]")), *value, "{}", path.display());
            }
        }
        let attachments = json["attachments"].as_array().unwrap();
        let files = form.files();
        assert_eq!(files.len(), attachments.len());
        for (file, attachment) in files.iter().zip(attachments) {
            use base64::Engine;
            let content = base64::engine::general_purpose::STANDARD.decode(attachment["content"].as_str().unwrap()).unwrap();
            assert!(file.content == content, "{}", path.display());
            assert_eq!(file.name, "attachments[]");
            assert_eq!(
                (json!(file.file_name), json!(file.content_type)),
                (attachment["file_name"].clone(), attachment["content_type"].clone())
            );
            assert_eq!(attachment["size"], content.len());
        }
    }
}

#[test]
fn form_fields_of_the_envelope() {
    let names = [
        "envelope[to]",
        "envelope[recipients][0]",
        "envelope[recipients][1]",
        "envelope[from]",
        "envelope[helo_domain]",
        "envelope[remote_ip]",
        "envelope[tls]",
        "envelope[spf][result]",
        "envelope[spf][domain]",
        "envelope[dkim][success]",
        "envelope[dkim][result][0][result]",
        "envelope[dkim][result][0][domain]",
        "envelope[dkim][result][0][selector]",
        "envelope[dmarc][success]",
        "envelope[dmarc][result]",
        "envelope[dmarc][details][domain]",
        "envelope[dmarc][details][policy]",
        "envelope[spam][score]",
        "envelope[spam][required]",
        "envelope[spam][action]",
        "envelope[spam][symbols][0]",
        "envelope[spam][symbols][1]",
    ];
    let message = b"Subject: x\r\n\r\ntext\r\n";
    for format in [Format::Multipart, Format::Raw] {
        let form = Form::parse(&render_all(&route(format), &envelope(), &checked(), message));
        let mut found = form.names();
        found.retain(|name| name.starts_with("envelope["));
        assert_eq!(found, names);
        assert_eq!(form.text("envelope[tls]"), "true");
        assert_eq!(form.text("envelope[recipients][1]"), "two@example.org");
        assert_eq!(form.text("envelope[dkim][success]"), "true");
        assert_eq!(form.text("envelope[dmarc][details][domain]"), "exämple.com");

        let form = Form::of(format, message);
        assert!(!form.names().iter().any(|name| ["spf", "dkim", "dmarc", "spam"].iter().any(|check| name.contains(check))));
    }
}

#[test]
fn a_name_cannot_break_out_of_its_field() {
    let message = b"X\"[a][b]: v\r\nContent-Type: a/b; name*=utf-8''a%22%3B%0D%0A%20X-Evil:%20y%00.txt\r\n\r\ncontent";
    let form = Form::of(Format::Multipart, message);
    assert_eq!(form.text("headers[x\"%5Ba%5D%5Bb%5D]"), "v");
    assert_eq!(form.files()[0].file_name.as_deref(), Some("a\"; X-Evil: y\u{fffd}.txt"));
}

#[test]
fn a_large_attachment_that_is_not_encoded_is_a_slice_of_the_message() {
    let head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/x-data\r\n\r\n";
    let content = b"line\r\n".repeat(20_000);
    let message = [head.as_slice(), &content, b"\r\n--b--\r\n"].concat();
    let (rendered, most, _) = held(Format::Multipart, &message, u64::MAX).unwrap();
    assert!(most < 32 * 1024, "{most}");
    assert_eq!(rendered.pieces.len(), 3);
    assert!(Form::of(Format::Multipart, &message).files()[0].content == content);
}

#[test]
fn raw_is_the_message_unaltered_in_a_plain_field() {
    for (path, message) in messages() {
        let form = Form::of(Format::Raw, &message);
        let field = form.0.last().unwrap();
        assert_eq!(form.0[0].name, "envelope[to]");
        assert_eq!((field.name.as_str(), &field.file_name, &field.content_type), ("message", &None, &None));
        assert!(field.content == message, "{}", path.display());
    }
}

#[test]
fn rfc822_is_the_message_itself() {
    for (_, message) in messages() {
        let (rendered, body) = render_all(&route(Format::Rfc822), &envelope(), &Verification::default(), &message);
        assert!(body == message);
        assert_eq!(rendered.content_type, "message/rfc822");
    }
    let special = Envelope {
        reverse_path: "\"100%\"@example.com".to_owned(),
        recipients: vec!["jürgen@example.org".to_owned(), "a\r\nX: y@example.org".to_owned()],
        ..envelope()
    };
    let (rendered, _) = render_all(&route(Format::Rfc822), &special, &checked(), b"");
    let expected = [
        ("Mailsluice-Mail-From", "\"100%25\"@example.com"),
        ("Mailsluice-Rcpt-To", "j%C3%BCrgen@example.org,a%0D%0AX:%20y@example.org"),
        ("Mailsluice-Remote-Ip", "192.0.2.1"),
        ("Mailsluice-Helo", "mail.example.com"),
        ("Mailsluice-Tls", "TLSv1.3 TLS_AES_256_GCM_SHA384"),
        ("Mailsluice-Spf", r#"{"result":"pass","domain":"example.com"}"#),
        ("Mailsluice-Dkim", r#"{"success":true,"result":[{"result":"pass","domain":"example.com","selector":"s\u0000"}]}"#),
        ("Mailsluice-Dmarc", r#"{"success":false,"result":"fail","details":{"domain":"ex\u00e4mple.com","policy":null}}"#),
        ("Mailsluice-Spam", "score=-1.5; required=15.0; action=no action"),
    ];
    let found: Vec<(&str, &str)> = rendered.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(found, expected);

    let plain = Envelope { reverse_path: String::new(), tls: None, ..envelope() };
    let (rendered, _) = render_all(&route(Format::Rfc822), &plain, &Verification::default(), b"");
    assert_eq!(rendered.headers[0], ("Mailsluice-Mail-From", String::new()));
    assert_eq!(rendered.headers.len(), 4, "no field for what is not there");
}

#[test]
fn rails_has_every_recipient_before_the_message() {
    let special = Envelope { recipients: vec!["bcc@example.org".to_owned(), "a\r\nX: y@example.org".to_owned()], ..envelope() };
    let message = b"To: list@example.org\r\n\r\ntext\r\n";
    let (rendered, body) = render_all(&route(Format::Rails), &special, &Verification::default(), message);
    assert_eq!(rendered.content_type, "message/rfc822");
    assert_eq!(rendered.headers[0], ("Mailsluice-Mail-From", "sender@example.com".to_owned()));
    let expected = "X-Original-To: bcc@example.org\r\nX-Original-To: aX: y@example.org\r\nTo: list@example.org\r\n\r\ntext\r\n";
    assert_eq!(String::from_utf8(body).unwrap(), expected);
}

#[test]
fn rails_keeps_its_own_fields_apart_from_whatever_the_message_begins_with() {
    let ours = "X-Original-To: one@example.org\r\nX-Original-To: two@example.org\r\n";
    let table = [
        ("Subject: a\r\n\r\ntext", "Subject: a\r\n\r\ntext"),
        ("", ""),
        ("\r\ntext: a\r\n", "\r\ntext: a\r\n"),
        ("\ntext", "\ntext"),
        (" continued: x\r\nFrom: a@b\r\n\r\ntext", "From: a@b\r\n\r\ntext"),
        ("\tcontinued\r\n\r\ntext", "\r\n\tcontinued\r\n\r\ntext"),
        ("   \r\n  \r\nFrom: a@b\r\n\r\ntext", "From: a@b\r\n\r\ntext"),
        ("just text\r\n\r\nmore: text", "\r\njust text\r\n\r\nmore: text"),
        ("\u{feff}Subject: a\r\n\r\ntext", "Subject: a\r\n\r\ntext"),
        ("From a@b Mon Jan 5 15:04:00 2026\r\nSubject: a\r\n\r\ntext", "Subject: a\r\n\r\ntext"),
        ("\u{feff}From a@b Mon Jan 5\nSubject: a\n\ntext", "Subject: a\n\ntext"),
        ("From here on\r\nit is text", "\r\nFrom here on\r\nit is text"),
    ];
    for (message, expected) in table {
        let body = String::from_utf8(body_of(Format::Rails, message.as_bytes())).unwrap();
        assert_eq!(body, format!("{ours}{expected}"), "{message:?}");
    }
}

/// A mail with one attachment of this many octets, in lines of base64.
fn mail_with_attachment(size: usize) -> Vec<u8> {
    use base64::Engine;
    let octets: Vec<u8> = (0..size).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect();
    let encoded = base64::engine::general_purpose::STANDARD.encode(octets);
    let lines: Vec<&[u8]> = encoded.as_bytes().chunks(76).collect();
    let head = "Subject: big\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nSee attached.\r\n--b\r\nContent-Type: application/zip; \
                name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n";
    [head.as_bytes(), &lines.join(&b"\r\n"[..]), b"\r\n--b--\r\n"].concat()
}

/// The most that was held at a time, and what was held at the end.
fn held(format: Format, message: &[u8], limit: u64) -> Result<(Rendered, u64, u64), OverBudget> {
    let (mut most, mut last) = (0, 0);
    let mut hold = |octets: u64| {
        if octets > limit {
            return Err(OverBudget);
        }
        most = most.max(octets);
        last = octets;
        Ok(())
    };
    let rendered = render(&route(format), &envelope(), &Verification::default(), message, &mut hold)?;
    Ok((rendered, most, last))
}

#[test]
fn what_is_made_is_paid_for_and_no_more_than_is_needed() {
    let message = mail_with_attachment(1_000_000);
    for format in ALL {
        let (rendered, most, last) = held(format, &message, u64::MAX).unwrap();
        let made: u64 = rendered.pieces.iter().map(|piece| piece.capacity() as u64).sum();
        assert_eq!(last, made, "{format:?}");
        let needed = match format {
            Format::Json => 1_000_000 / 3 * 4,
            Format::Multipart => 1_000_000,
            Format::Raw | Format::Rfc822 | Format::Rails => 0,
        };
        assert!((needed..needed + needed / 10 + 16 * 1024).contains(&most), "{format:?} held {most} for {needed}");
        // Every limit below what was needed is respected, without a panic.
        for limit in [0, 1, 4096, needed / 2, needed.saturating_sub(1)] {
            assert!(limit >= most || held(format, &message, limit).is_err() || limit >= made, "{format:?} under {limit}");
        }
    }
}

/// Renders in every format; none may take more than this, or fail.
fn survives(what: &str, message: &[u8]) {
    for format in ALL {
        let start = Instant::now();
        let (_, most, _) = held(format, message, u64::MAX).unwrap();
        // The worst are fields of a few octets each: a form has a delimiter and a name for each of them.
        let bound = 40 * message.len() as u64 + 1024 * 1024;
        assert!(most <= bound, "{what} as {format:?}: {most} octets held for {}", message.len());
        // Linear takes a fraction of this without optimisation on a busy machine, quadratic far more.
        assert!(start.elapsed() < Duration::from_secs(20), "{what} as {format:?} took {:?}", start.elapsed());
    }
    let body = body_of(Format::Json, message);
    assert!(serde_json::from_slice::<Value>(&body).unwrap()["attachments"].is_array(), "{what}");
}

#[test]
fn hostile_structures_take_bounded_time_and_memory() {
    let multiparts = |depth: usize| -> Vec<u8> {
        (0..depth)
            .map(|level| format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"))
            .collect::<String>()
            .into_bytes()
    };
    survives("2000-fold multipart", &multiparts(2000));
    survives("2000-fold message", &b"Content-Type: message/rfc822\r\n\r\n".repeat(2000));
    survives("2000-fold digest", &b"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n".repeat(2000));
    survives("100 000 headers", &b"A: b\r\n".repeat(100_000));
    let distinct: String = (0..100_000).map(|at| format!("X-{at}: b\r\n")).collect();
    survives("100 000 names", distinct.as_bytes());
    survives("1 MiB header line", &[b"Subject: ".as_slice(), &b"=?utf-8?q?a?= ".repeat(75_000), b"\r\n\r\n"].concat());
    survives("1 MiB type", &[b"Content-Type: a/b".as_slice(), &b"; name*1*=a''b".repeat(75_000), b"\r\n\r\n"].concat());
    survives("1 MiB name", &[b"X".repeat(1024 * 1024).as_slice(), b": x\r\n\r\n"].concat());
    let parts = [b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".as_slice(), &b"--b\r\n\r\nx\r\n".repeat(50_000)].concat();
    survives("50 000 parts", &parts);
    let lost = b"--b\r\nContent-Type: multipart/mixed; boundary=never\r\n\r\n";
    survives("missing delimiters", &[b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".as_slice(), &lost.repeat(20_000)].concat());
    survives("false delimiters", &[multiparts(100).as_slice(), &b"--b\r\n".repeat(100_000)].concat());
    survives("quoted text", &b"> a\r\n".repeat(200_000));
    survives("attribution", &b"On 1 a@b wrote:\r\n> a\r\n".repeat(50_000));
}

/// Octets in which MIME's own words are frequent.
fn mail_like() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 26] = [
        b"Content-Type: ",
        b"multipart/mixed; boundary=b",
        b"multipart/alternative; boundary=\"c\"",
        b"text/plain",
        b"text/html; charset=iso-2022-jp",
        b"message/rfc822",
        b"image/png; name=x",
        b"Content-Transfer-Encoding: ",
        b"base64",
        b"quoted-printable",
        b"Content-Disposition: inline",
        b"; filename*=utf-8''%E9",
        b"Content-ID: <x>",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"--b",
        b"--c",
        b"--",
        b"YWJj",
        b"=C3=A9",
        b"\0\xff\xe9",
        b": ",
        b"=?utf-8?q?=00?=",
        b"> x wrote:",
    ];
    proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..60).prop_map(|pieces| pieces.concat())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

proptest! {
    #[test]
    fn any_octets_are_valid_in_every_format(message in prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), mail_like()]) {
        let json = json_of(&message);
        prop_assert!(!has_nul(&json));
        prop_assert!(!json["plain"].as_str().unwrap().contains('\r') && !json["html"].as_str().unwrap().contains('\r'));
        let form = Form::of(Format::Multipart, &message);
        prop_assert_eq!(form.text("plain"), json["plain"].as_str().unwrap());
        prop_assert_eq!(form.files().len(), json["attachments"].as_array().unwrap().len());
        prop_assert!(Form::of(Format::Raw, &message).0.last().unwrap().content == message);
        let rails = body_of(Format::Rails, &message);
        prop_assert!(rails.starts_with(b"X-Original-To: one@example.org\r\nX-Original-To: two@example.org\r\n"));
        prop_assert!(!rails.starts_with(b"X-Original-To: one@example.org\r\nX-Original-To: two@example.org\r\n "));
        prop_assert!(rails.ends_with(&message) || message.starts_with(b"\xef\xbb\xbf") || message.starts_with(b"From "));
    }
}
