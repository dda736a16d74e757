//! Form parsers and JSON readers that others wrote, on the daemon's own requests: what they got is what `json` says of the same message.
//!
//! Each language has a program in `receivers/` that listens and tells what the last request was to it. Where a parser alters what it reads,
//! the rule stands in [`Parser`]. `MAILSLUICE_TEST_FULL=1` brings every reply of the cases through forms too.

use crate::support::admin::Admin;
use crate::support::client::deliver;
use crate::support::process::Process;
use crate::support::{Config, Daemon, Endpoint, messages, port};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What a form parser does beyond reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parser {
    /// Texts are decoded as UTF-8.
    Text,
    /// As `Text`, without a byte-order mark.
    Browser,
    /// Texts are octets.
    Octets,
    /// As `Text`; in a file name entities are replaced, what cannot be printed is dropped, and what stands before a slash.
    Django,
    /// What is not UTF-8 is read as Latin-1.
    Starlette,
}

struct Receiver {
    name: &'static str,
    parser: Parser,
    port: u16,
}

/// Texts by the names that a form gives them.
type Fields = BTreeMap<String, Vec<String>>;

#[derive(Debug, PartialEq, Eq)]
struct File {
    name: String,
    kind: String,
    content: Vec<u8>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/receivers")
}

/// Names as nobody should give them to a file, each of an attachment.
fn hostile_names() -> Vec<u8> {
    const NAMES: [&str; 35] = [
        "x\\",
        "C:\\temp\\a.pdf",
        "a\\\"b",
        "\"quoted\".pdf",
        "a\"; name=\"envelope[to]\"; x=\"",
        "..",
        ".",
        "../../etc/passwd",
        "/etc/passwd",
        "\u{1b}[2J.pdf",
        "a\r\nContent-Type: text/html\r\n\r\nb",
        "a\0b.pdf",
        "tab\there",
        "\u{7f}\u{85}\u{2028}x.pdf",
        "na\u{ef}ve.pdf",
        "\u{65e5}\u{672c}\u{8a9e}.pdf",
        "\u{1f600}.png",
        "\u{202e}fdp.exe",
        "a%22b%0d%0a.pdf",
        "100%.pdf",
        "%2e%2e%2fa",
        "a;b=c.pdf",
        "a'b''c.pdf",
        "  blanks  .pdf  ",
        "--mailsluice--",
        "a&amp;b.pdf",
        "=?utf-8?Q?word?=.pdf",
        "filename*=utf-8''x",
        "(paren) [bracket] {brace}.pdf",
        "con.txt",
        ".htaccess",
        "b; FileName = c; Name*=utf-8''plain; name=plain",
        "a,b.pdf",
        "\u{fffd}\u{feff}.pdf",
        "e\u{301}.pdf",
    ];
    let percent = |name: &str| name.bytes().map(|octet| format!("%{octet:02X}")).collect::<String>();
    let part = |(at, name): (usize, &&str)| {
        format!(
            "--b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment;\r\n filename*=utf-8''{}\r\n\r\ncontent {at}\r\n",
            percent(name)
        )
    };
    let long = format!("--b\r\nContent-Type: image/png; name={}.png\r\n\r\nlong\r\n", "\u{fc}".repeat(300));
    let parts: String = NAMES.iter().enumerate().map(part).collect();
    format!("Subject: names\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n{parts}{long}--b--\r\n").into_bytes()
}

/// Octets of every value, in lines and without any, and header names that a form might take for its own.
fn hostile_texts() -> Vec<u8> {
    let every: Vec<u8> = (0..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let octets = STANDARD.encode((0..=255_u8).cycle().take(70_000).collect::<Vec<u8>>());
    let mut message = b"X[a]: 1\r\nX%5Ba: 2\r\nX\"quoted\": 3\r\nX.dot: 4\r\nX-: 5\r\n0: 6\r\n1: 7\r\nEnvelope[to: 8\r\nX;name=plain: 8\r\nX;name=\"html\";filename=\"a: 8\r\n__proto__: 9\r\nConstructor: 10\r\n\
        Subject: hostile\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
        .to_vec();
    message.extend_from_slice(&every);
    message.extend_from_slice(b"\r\nna\xc3\xafve \xe2\x82\xac\r\n--mailsluice-00000000000000000000000000000000--\r\n\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n");
    message
        .extend_from_slice(b"<p>\xc3\xa9\r\n\r\n--\r\n--b\r\nContent-Type: application/x-any\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    message.extend_from_slice(octets.as_bytes());
    message.extend_from_slice(b"\r\n--b\r\nContent-Type: application/x-none\r\n\r\n\r\n--b--\r\n");
    message
}

fn all_messages() -> Vec<(String, Vec<u8>)> {
    let full = std::env::var_os("MAILSLUICE_TEST_FULL").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files =
        ["cases", "messages"].into_iter().flat_map(|folder| root.join(folder).read_dir().unwrap()).map(|entry| entry.unwrap().path());
    let mut messages: Vec<(String, Vec<u8>)> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "eml"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), messages::with_crlf(&std::fs::read(&path).unwrap())))
        .filter(|(name, _)| full || !name.starts_with("reply-") || name.ends_with("-gmail"))
        .collect();
    messages.sort();
    messages.push(("hostile names".to_owned(), hostile_names()));
    messages.push(("hostile texts".to_owned(), hostile_texts()));
    messages
}

/// A form's fields as the structure whose names they carry; lists and tables alike.
fn flatten(name: &str, value: &Value, text: &dyn Fn(&str) -> String, into: &mut Fields) {
    let mut inner = |key: &str, value: &Value| {
        let name = if name.is_empty() { key.to_owned() } else { format!("{name}[{key}]") };
        flatten(&name, value, text, into);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| inner(&at.to_string(), value)),
        Value::String(value) => into.entry(readable(name)).or_default().push(text(value)),
        Value::Bool(_) | Value::Number(_) => into.entry(readable(name)).or_default().push(value.to_string()),
        Value::Null => panic!("{name} is nothing"),
    }
}

/// Some read percent escapes, others keep them: with all of them read.
fn readable(name: &str) -> String {
    let mut pieces = name.split('%');
    let mut octets = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) => octets.extend([&[octet], &piece.as_bytes()[2..]].concat()),
            None => octets.extend([b"%", piece.as_bytes()].concat()),
        }
    }
    let once = String::from_utf8_lossy(&octets).into_owned();
    if once == name { once } else { readable(&once) }
}

/// What `json` says, as fields and files of a form.
fn as_form(json: &Value) -> (Fields, Vec<File>) {
    let mut form = json.clone();
    let files = form.as_object_mut().unwrap().remove("attachments").unwrap();
    let headers = form["headers"].as_object().unwrap().iter().map(|(name, value)| {
        // As the names of a form have it.
        let name = name.replace('%', "%25").replace('[', "%5B").replace(']', "%5D").replace('\\', "%5C");
        (name, value.clone())
    });
    form["headers"] = Value::Object(headers.collect());
    let mut fields = Fields::new();
    flatten("", &form, &str::to_owned, &mut fields);
    let files = files.as_array().unwrap().iter().map(|file| File {
        name: readable(file["file_name"].as_str().unwrap()),
        kind: main_type(&file["content_type"]),
        content: STANDARD.decode(file["content"].as_str().unwrap()).unwrap(),
    });
    (fields, files.collect())
}

/// Some keep the parameters of a type, others do not.
fn main_type(value: &Value) -> String {
    value.as_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned()
}

impl Parser {
    /// A text as this parser gives it, of octets.
    fn text(self, octets: &[u8]) -> String {
        match self {
            Self::Starlette if std::str::from_utf8(octets).is_err() => octets.iter().map(|octet| char::from(*octet)).collect(),
            Self::Browser => String::from_utf8_lossy(octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets)).into_owned(),
            Self::Text | Self::Django | Self::Starlette | Self::Octets => String::from_utf8_lossy(octets).into_owned(),
        }
    }

    /// The form that it got: of octets, what they say as UTF-8, once they were found to be right.
    fn form(self, got: &Value) -> (Fields, Vec<File>) {
        let decode = |text: &str| match self {
            Self::Octets => String::from_utf8_lossy(&STANDARD.decode(text).unwrap()).into_owned(),
            // Of some versions only.
            Self::Browser => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
            Self::Text | Self::Django | Self::Starlette => text.to_owned(),
        };
        let mut fields = Fields::new();
        match got["fields"].as_object() {
            Some(flat) => {
                for (name, values) in flat {
                    let values = values.as_array().unwrap().iter().map(|value| decode(value.as_str().unwrap()));
                    fields.insert(readable(name), values.collect());
                }
            }
            None => flatten("", &got["tree"], &decode, &mut fields),
        }
        let files = got["files"].as_array().unwrap().iter().map(|file| File {
            name: readable(file["file_name"].as_str().unwrap()),
            kind: main_type(&file["type"]),
            content: STANDARD.decode(file["content"].as_str().unwrap()).unwrap(),
        });
        (fields, files.collect())
    }

    fn file_name(self, name: &str) -> String {
        match self {
            Self::Django => name.replace("&amp;", "&").replace(['\u{202e}', '\u{feff}'], ""),
            Self::Text | Self::Browser | Self::Octets | Self::Starlette => name.to_owned(),
        }
    }
}

/// Those of the first that the second has not, each as often as it is there.
fn without<'a>(files: &'a [File], others: &[File]) -> Vec<&'a File> {
    let mut others: Vec<&File> = others.iter().collect();
    files.iter().filter(|file| others.iter().position(|other| other == file).map(|at| others.remove(at)).is_none()).collect()
}

/// Sends every message to every receiver, in each format that is for it.
fn each_reads_what_is_sent(receivers: &[Receiver], json_port: u16, seen_at: u16) {
    let truth = Endpoint::ok();
    let seen = Admin::new(&format!("127.0.0.1:{seen_at}"));
    let url = |port: u16, path: &str| format!("http://127.0.0.1:{port}/{path}");
    let mut config = Config::without_routes().route("truth", &["*@truth.test"], &truth.url("/")).route(
        "json",
        &["*@json.test"],
        &url(json_port, "json"),
    );
    for receiver in receivers {
        for format in ["multipart", "raw"] {
            let at = format!("*@{}.{format}.test", receiver.name);
            config =
                config.route(&format!("{}-{format}", receiver.name), &[&at], &url(receiver.port, receiver.name)).of_route("format", format);
        }
    }
    let daemon = Daemon::start(config);
    let mut wrong = Vec::new();
    for (name, message) in all_messages() {
        let send = |host: &str| deliver(daemon.smtp(), "alice@sender.test", &[&format!("bob@{host}")], &message);
        truth.clear();
        send("truth.test").starts("250 ");
        let at_host = |host: &str| {
            let json = String::from_utf8(truth.only().body.clone()).unwrap().replace("bob@truth.test", &format!("bob@{host}"));
            serde_json::from_str::<Value>(&json).unwrap()
        };
        let got = |host: &str| match send(host).text() {
            reply if reply.starts_with("250 ") => Ok(seen.json("/got")),
            reply => Err(format!("{name}: {host}: {reply}")),
        };
        match got("json.test") {
            Ok(got) if got["json"] == at_host("json.test") => {}
            Ok(got) => wrong.push(format!("{name}: json: {}", got["json"])),
            Err(error) => wrong.push(error),
        }
        for receiver in receivers {
            for format in ["multipart", "raw"] {
                let host = format!("{}.{format}.test", receiver.name);
                let got = match got(&host) {
                    Ok(got) => got,
                    Err(error) => {
                        wrong.push(error);
                        continue;
                    }
                };
                let (mut fields, mut files) = as_form(&at_host(&host));
                if format == "raw" {
                    fields.retain(|name, _| name.starts_with("envelope"));
                    fields.insert("message".to_owned(), vec![receiver.parser.text(&message)]);
                    files.clear();
                    if let Some(octets) = got["tree"]["message"].as_str().filter(|_| got["octets"] == true)
                        && STANDARD.decode(octets).unwrap() != message
                    {
                        wrong.push(format!("{name}: {host}: other octets"));
                    }
                }
                for file in &mut files {
                    file.name = receiver.parser.file_name(&file.name);
                }
                let (got_fields, got_files) = receiver.parser.form(&got);
                let names = got["files"].as_array().unwrap().iter().map(|file| file["file_name"].as_str().unwrap());
                let unsafe_name = |name: &&str| name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
                wrong.extend(names.filter(unsafe_name).map(|file| format!("{name}: {host}: a file {file:?}")));
                let (missing, strange) = (without(&files, &got_files), without(&got_files, &files));
                if !missing.is_empty() || !strange.is_empty() {
                    wrong.push(format!("{name}: {host}: files {strange:?} instead of {missing:?}"));
                }
                for (field, values) in &fields {
                    if got_fields.get(field) != Some(values) {
                        wrong.push(format!("{name}: {host}: {field} is {:?} instead of {values:?}", got_fields.get(field)));
                    }
                }
                wrong.extend(
                    got_fields.keys().filter(|field| !fields.contains_key(*field)).map(|field| format!("{name}: {host}: a field {field}")),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Starts a program and waits for the ports that it says. What it keeps of uploads goes with the directory.
fn start(command: &mut Command) -> (Process, Vec<u16>, TempDir) {
    let uploads = tempfile::tempdir().unwrap();
    let process = Process::start(command.env("TMPDIR", uploads.path()));
    let ports = process
        .lines
        .wait_for("ports", |line| Some(line.strip_prefix("listening on ")?.split(' ').map(|port| port.parse().unwrap()).collect()));
    (process, ports, uploads)
}

#[test]
fn node() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/npm");
    let (_process, ports, _uploads) = start(Command::new("node").arg(folder().join("receiver.mjs")).arg(modules));
    let receivers = [("busboy", Parser::Text), ("multer", Parser::Text), ("formidable", Parser::Text), ("undici", Parser::Browser)]
        .map(|(name, parser)| Receiver { name, parser, port: ports[0] });
    each_reads_what_is_sent(&receivers, ports[0], ports[0]);
}

#[test]
fn python() {
    let (_process, ports, _uploads) = start(Command::new(super::python::interpreter()).arg(folder().join("receiver.py")));
    let receivers = [
        Receiver { name: "werkzeug", parser: Parser::Text, port: ports[0] },
        Receiver { name: "django", parser: Parser::Django, port: ports[0] },
        Receiver { name: "starlette", parser: Parser::Starlette, port: ports[1] },
    ];
    each_reads_what_is_sent(&receivers, ports[0], ports[0]);
}

#[test]
fn ruby() {
    let (_process, ports, _uploads) = start(Command::new(super::program("ruby")).arg(folder().join("receiver.rb")));
    each_reads_what_is_sent(&[Receiver { name: "rack", parser: Parser::Octets, port: ports[0] }], ports[0], ports[0]);
}

#[test]
fn php() {
    let dir = tempfile::tempdir().unwrap();
    let port = port::free();
    let mut command = Command::new(super::program("php"));
    for limit in ["max_input_vars=100000", "max_file_uploads=1000", "upload_max_filesize=64M", "post_max_size=64M", "display_errors=stderr"]
    {
        command.args(["-d", limit]);
    }
    command.args(["-S", &format!("127.0.0.1:{port}")]).arg(folder().join("receiver.php")).current_dir(dir.path());
    command.env("TMPDIR", dir.path());
    let process = Process::start(&mut command);
    process.lines.wait_for("the server", |line| line.contains("started").then_some(()));
    each_reads_what_is_sent(&[Receiver { name: "php", parser: Parser::Octets, port }], port, port);
}
