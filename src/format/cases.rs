//! The cases of `tests/cases`: real mail's oddities, each with what has to come out of it. `tests/cases/README.md` says where they come from.

use super::tests::{body_of, form_of, json_of};
use crate::config::Format;
use mail_parser::MessageParser;
use serde_json::Value;
use std::path::Path;

struct Case {
    name: String,
    format: String,
    checks: serde_json::Map<String, Value>,
    message: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let table = std::fs::read_to_string(folder.join("cases.tsv")).unwrap();
    let cases = table.lines().skip(1).map(|line| {
        let [name, _kind, format, checks, ..] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        Case {
            name: name.to_owned(),
            format: format.to_owned(),
            checks: serde_json::from_str(checks).unwrap(),
            message: std::fs::read(folder.join(format!("{name}.eml"))).unwrap(),
        }
    });
    cases.collect()
}

/// The address that another parser finds in a field.
fn address(field: &str) -> Option<String> {
    let message = format!("From: {field}\r\n\r\n");
    MessageParser::default().parse(message.as_bytes())?.from()?.first()?.address().map(str::to_owned)
}

/// What stands at a path: keys and numbers, `#` a length, `~` trimmed, `*` to be searched.
fn at(value: &Value, path: &str) -> Value {
    if let Some(inner) = path.strip_prefix("parseaddr(").and_then(|path| path.strip_suffix(')')) {
        return at(value, inner).as_str().and_then(address).into();
    }
    let (keys, trimmed) = match path.strip_suffix('~') {
        Some(keys) => (keys, true),
        None => (path.trim_end_matches('*'), false),
    };
    let mut value = value;
    for key in keys.split('.') {
        if key == "#" {
            return value.as_array().map(Vec::len).into();
        }
        value = key.parse::<usize>().map_or_else(|_| &value[key], |number| &value[number]);
    }
    match value.as_str() {
        Some(text) if trimmed => text.trim().into(),
        _ => value.clone(),
    }
}

#[test]
fn every_case_as_json() {
    let cases = cases();
    assert!(cases.len() >= 98, "the cases are not where they should be");
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.format == "json") {
        let json = json_of(&case.message);
        for (path, expected) in &case.checks {
            let found = at(&json, path);
            let holds = match expected.as_str() {
                Some(expected) if path.ends_with('*') => found.as_str().is_some_and(|found| found.contains(expected)),
                _ => found == *expected,
            };
            if !holds {
                wrong.push(format!("{}: {path} is {found} instead of {expected}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn message(name: &str) -> Vec<u8> {
    cases().into_iter().find(|case| case.name == name).unwrap().message
}

/// What strict form parsers want of names.
#[test]
fn forms_hold_no_name_that_a_strict_parser_refuses() {
    for name in ["form-name-escape", "form-name-backslash-end", "form-name-utf8-busboy"] {
        let form = form_of(Format::Multipart, &message(name));
        assert_eq!(form.len(), 2, "{name}");
        for (file_name, _) in form {
            assert!(!file_name.contains(|c: char| c.is_control() || c == '\\' || c == '/'), "{name}: {file_name:?}");
        }
    }
}

#[test]
fn headers_that_collide_in_a_form_are_told_apart() {
    let body = String::from_utf8(body_of(Format::Multipart, &message("form-header-bracket-collision"))).unwrap();
    assert_eq!(body.matches("name=\"headers[authentication_results]\"").count(), 1);
    assert!(body.contains("name=\"headers[authentication%5Bresults]\"\r\n\r\nmx.trusted.example; spf=pass\r\n"));
}

#[test]
fn the_envelope_comes_first_in_forms() {
    for format in [Format::Multipart, Format::Raw] {
        let body = String::from_utf8(body_of(format, &message("from-comma"))).unwrap();
        let at = |name: &str| body.find(&format!("name=\"{name}\"")).unwrap();
        let first_of_the_message = if format == Format::Raw { at("message") } else { at("headers[from]") };
        assert!(at("envelope[to]") < at("envelope[tls]") && at("envelope[tls]") < first_of_the_message);
    }
}

#[test]
fn rails_keeps_recipients_apart() {
    let body = String::from_utf8(body_of(Format::Rails, &message("rails-leading-blank"))).unwrap();
    let parsed = MessageParser::default().parse(body.as_bytes()).unwrap();
    let recipients: Vec<String> =
        parsed.header_values("X-Original-To").map(|value| value.as_text().unwrap_or_default().to_owned()).collect();
    assert_eq!(recipients, ["one@example.org", "two@example.org"]);
}

/// Answers as programs and people of many languages write them; `tests/cases/replies.txt`.
#[test]
fn every_reply() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/replies.txt");
    let replies = std::fs::read_to_string(file).unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for reply in replies.split("=== ").skip(1) {
        let (name, rest) = reply.split_once('\n').unwrap();
        let (text, expected) = rest.rsplit_once("\n--- \n").unwrap();
        let found = crate::message::reply_text::reply_text(text, true);
        if found != expected.trim() {
            wrong.push(format!("{name}: {found:?} instead of {:?}", expected.trim()));
        }
        seen += 1;
    }
    assert!(seen >= 40 && wrong.is_empty(), "{} of {seen} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
