//! Any octets as a message render in every format: the JSON is valid JSON in valid UTF-8 without NUL, the other formats are as long as they
//! said, no header field of the request holds a line end, and what is held in memory was told before.
//!
//! The first octet: attachments, envelope.

use super::choices;
use mailsluice::config::{Attachments, Format, Route, Target, Verify};
use mailsluice::envelope::{Envelope, Peer};
use mailsluice::format::{Piece, Rendered, render};
use mailsluice::message::header;
use mailsluice::verify::{SpfResult, Verification};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const FIELDS: [&str; 6] = ["headers", "envelope", "plain", "html", "reply_plain", "attachments"];

pub fn run(octets: &[u8]) {
    let (choice, message) = choices(octets);
    let envelope = envelope(choice);
    let rendered = |format| rendered(format, choice, &envelope, message);

    let (_, body) = rendered(Format::Json);
    let text = std::str::from_utf8(&body).expect("JSON is UTF-8");
    let json: Value = serde_json::from_str(text).expect("JSON");
    let names: Vec<&String> = json.as_object().expect("an object").keys().collect();
    assert_eq!(names, FIELDS);
    assert!(!has_nul(&json), "a NUL, which databases refuse");
    for name in ["plain", "html"] {
        assert!(!json[name].as_str().expect("text").contains('\r'), "line ends are LF");
    }
    let attachments = json["attachments"].as_array().expect("a list");

    let (form, body) = rendered(Format::Multipart);
    let boundary = form.content_type.split_once("boundary=").expect("a boundary").1.trim_matches('"');
    assert!(body.ends_with(format!("--{boundary}--\r\n").as_bytes()), "the form has no end");
    let files = count(&body, b"name=\"attachments[]\"; filename");
    assert!(files >= attachments.len() || choice & 1 == 1, "{files} files, {} attachments", attachments.len());

    // What stands in front of the first field may go.
    let body = header::head(message, 0, |_| false).body;
    assert!(rendered(Format::Rails).1.ends_with(&message[body..]));
    for format in [Format::Raw, Format::Rfc822] {
        let (pieces, body) = rendered(format);
        let whole = pieces.pieces.iter().any(|piece| matches!(piece, Piece::Message(range) if *range == (0..message.len())));
        assert!(whole || message.is_empty() || format == Format::Rfc822 || count(&body, message) > 0, "{format:?} without its message");
    }
}

fn rendered(format: Format, choice: u8, envelope: &Envelope, message: &[u8]) -> (Rendered, Vec<u8>) {
    let verification = if choice & 2 == 2 {
        let spf = SpfResult { result: "pass", domain: envelope.helo.clone() };
        Verification { spf: Some(spf), dkim: Some(serde_json::json!({"success": true})), dmarc: Some(Value::Null), spam: None }
    } else {
        Verification::default()
    };
    let mut held = 0;
    let mut hold = |octets| {
        held = octets;
        Ok(())
    };
    let route = route(format, if choice & 1 == 1 { Attachments::Metadata } else { Attachments::Embed });
    let rendered = render(&route, envelope, &verification, message, &mut hold).expect("there is memory");
    let made: usize = rendered.pieces.iter().map(|piece| if let Piece::Octets(octets) = piece { octets.len() } else { 0 }).sum();
    assert!(held >= made as u64, "{format:?}: {held} octets told, {made} held");
    let body = rendered.slices(message).collect::<Vec<_>>().concat();
    assert_eq!(body.len() as u64, rendered.len, "{format:?}");
    for text in rendered.headers.iter().map(|(_, value)| value).chain([&rendered.content_type]) {
        assert!(!text.contains(['\r', '\n', '\0']), "{format:?}: {text:?}");
    }
    (rendered, body)
}

fn route(format: Format, attachments: Attachments) -> Route {
    Route {
        name: "test".to_owned(),
        recipients: vec!["*".to_owned()],
        target: Arc::new(Target { url: "http://endpoint.example/".parse().expect("a URL"), headers: Vec::new() }),
        templates: None,
        socket: None,
        authorization: None,
        format,
        attachments,
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

fn envelope(choice: u8) -> Envelope {
    let odd = choice & 4 == 4;
    Envelope {
        peer: Peer { ip: [192, 0, 2, 1].into(), port: 25 },
        helo: if odd { "quo\"te\\".to_owned() } else { "mail.example.com".to_owned() },
        reverse_path: if odd { String::new() } else { "sender@example.com".to_owned() },
        recipients: vec![
            if odd { "\"j\u{fc}rgen%\"@example.org".to_owned() } else { "one@example.org".to_owned() },
            "two@example.org".to_owned(),
        ],
        declared_size: None,
        smtputf8: odd,
        tls: odd.then(|| "TLSv1.3 TLS_AES_256_GCM_SHA384".to_owned()),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn count(octets: &[u8], wanted: &[u8]) -> usize {
    octets.windows(wanted.len().max(1)).filter(|window| *window == wanted).count()
}
