//! The fuzzer's targets in the ordinary tests: the kept corpus is replayed, and each target runs as a property over made-up octets in which
//! its own words are frequent. How to fuzz by hand: `README.md` here.

#[expect(unreachable_pub, reason = "the same files are a library in the fuzzer's own package")]
mod targets;

use proptest::prelude::*;
use std::path::Path;

/// Runs every kept input of a target; a failure names the file.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let octets = std::fs::read(&path).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| run(&octets)) {
            eprintln!("the input is {}", path.display());
            std::panic::resume_unwind(panic);
        }
        replayed += 1;
    }
    assert!(replayed >= 5, "only {replayed} inputs in {}", folder.display());
}

/// Octets made of these words, with others between them.
fn made_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        12 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let pieces = prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat());
    (any::<[u8; 2]>(), pieces).prop_map(|(choices, octets)| [choices.as_slice(), &octets].concat())
}

macro_rules! targets {
    ($($target:ident: $words:expr,)*) => { $(
        mod $target {
            use super::*;

            #[test]
            fn the_kept_corpus_still_holds() {
                replay(stringify!($target), targets::$target::run);
            }

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn holds_of_made_up_octets(octets in made_of($words)) {
                    targets::$target::run(&octets);
                    // Without the choices in front too: not every target makes any.
                    targets::$target::run(octets.get(2..).unwrap_or_default());
                }
            }
        }
    )* };
}

targets! {
    session: &[
        "EHLO client.test\r\n", "HELO client.test\r\n", "MAIL FROM:<a@sender.test>\r\n", "MAIL FROM:<> SIZE=90 BODY=8BITMIME SMTPUTF8\r\n",
        "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "RCPT TO:<b@example.test>\r\n", "RCPT TO:<b@example.tesx>\r\n",
        "RCPT TO:<Postmaster>\r\n", "DATA\r\n", "BDAT 3\r\nabc", "BDAT 2\r\na\r", "BDAT 1\r\n\n", "BDAT 0 LAST\r\n", "BDAT 9 LAST\r\n", "BDAT x\r\n",
        "RSET\r\n", "NOOP\r\n", "NOOP\n", "STARTTLS\r\n", "\u{16}\u{3}", "QUIT\r\n", "\r\n.\r\n", ".\r\n", "\r", "\n", "\n.\n", ".", "\0", "text",
    ],
    data: &["\r\n", "\r", "\n", ".", "\r\n.", "\r\n.\r\n", "\n.\r\n", "..", "\0", "text", "a line of text\r\n"],
    header: &[
        "Subject", "subject", "message-id", "Received", ":", " : ", " ", "\t", "\r\n", "\n", "\r", "x", "\0", "S", "-", "\r\n\r\n", "\r\n ",
        "=?utf-8?q?=0D=0A?=",
    ],
    encoded_word: &[
        "=?", "?=", "?", "=", "=?utf-8?q?", "=?UTF-8?B?", "=?iso-2022-jp*ja?b?", "=?koi8-r?Q?", "=C3", "=A9", "4oKs", "_", " ", "\r\n ", "\n",
        "\u{2028}", "\0", "caf\u{e9}", "text",
    ],
    proxy_header: &[
        "PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "192.0.2.7 ", "198.51.100.1 ", "::1 ", "::ffff:192.0.2.1 ", "12345 ", "25", " ", "\r", "\n",
        "\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n", "\r\n\r\n\0\r\nQUIT\n", "!\u{11}\0\u{c}", "!!\0$", " \0\0\0", "\0", "aaaa",
    ],
    json: &[
        "Content-Type: ", "multipart/mixed; boundary=b", "multipart/alternative; boundary=\"c\"", "text/plain", "text/html; charset=iso-2022-jp",
        "message/rfc822", "image/png; name=x", "Content-Transfer-Encoding: ", "base64", "quoted-printable", "Content-Disposition: inline",
        "; filename*=utf-8''%E9", "Content-ID: <x>", "\r\n", "\r\n\r\n", "\n", "\r", "--b", "--c", "--", "YWJj", "=C3=A9", "\0", ": ",
        "=?utf-8?q?=00?=", "> x wrote:",
    ],
    config: &[
        "[smtp]\n", "hostname = \"mx.test\"\n", "listen = [\"[::]:25\"]\n", "max_message_size = \"25MiB\"\n", "max_errors = 0\n",
        "command_timeout = \"5m\"\n", "bare_newline = \"normalize\"\n", "[smtp.tls]\n", "require = true\n", "[[route]]\n", "name = \"a\"\n",
        "recipients = [\"*@example.test\"]\n", "url = \"http://127.0.0.1/\"\n", "[[route]]\nrecipients = [\"*\"]\nurl = \"http://127.0.0.1:1/x\"\n",
        "format = \"raw\"\n", "headers = { X-A = \"b\" }\n", "defer_statuses = [429]\n", "[forward]\n", "breaker = { failures = 1 }\n", "[memory]\n",
        "per_ip_share = 0.5\n", "[admin]\n", "listen = \"unix:/run/a\"\n", "[store]\n", "retention = \"1d\"\n", "redact = [\"subject\"]\n", "[log]\n",
        "= ", "\"", "1e999", "\n", "[", "]", "#", "\u{e9}",
    ],
    path: &[
        "<", ">", "@", "a", "b.c", "..", "\"", "\\", " ", "[192.0.2.1]", "[IPv6:::1]", "@x.example:", ",", "postmaster", "xn--bcher-kva", "b\u{fc}cher",
        "\u{131}\u{130}\u{df}", ".example", "e\u{301}", "+tag", "-", "_", " SIZE=1", "\t", "\u{3002}", "(c)",
    ],
    charset: &[
        "\u{1b}$B", "\u{1b}(B", "\u{1b}$)C", "\u{e}", "\u{f}", "~{", "~}", "+ZYc-", "caf\u{e9}", "<meta charset=", "windows-1251>", "\u{feff}", "\0a", "a\0",
        "$F%9", "text", "\n", "%H", "\u{4f60}\u{597d}",
    ],
    parameter: &[
        "attachment", "; ", ";", "filename", "name", "charset", "boundary", "*", "0", "1", "*0*", "=", "\"", "\\", "utf-8''", "iso-2022-jp''", "%41", "%E9",
        "=?utf-8?Q?a=C3?=", "\r\n ", "\r\n\t", "(c)", ")", "a b.pdf", "/", "..", " ",
    ],
    reply_text: &[
        "On 5 Jan 2026 at 15:04, Ann <a@b.example> wrote:\n", "> old\n", "\n", "new\n", "From: a@b\n", "Sent: 1\n", "To: b\n", "Subject: c\n", "-- \n",
        "-----Original Message-----\n", "________________________________\n", "### Reply Above This Line ###", "| a\n", "Sent from my phone\n",
        "Am 5.1.2026 schrieb a@b:\n", "a \u{e9}crit :\n", "*", ":", ">", "wrote:", "20:26", "2026", "@",
    ],
    admin: &[
        "since=", "until=", "sender=", "recipient=", "message_id=", "outcome=delivered", "undelivered=true", "text=", "cursor=", "limit=", "&", "=",
        "1h30m", "9223372036854775807d", "2026-01-31T12:00:00Z", "-009999-01-01T00:00:00Z", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "%C3%A9", "%",
        "multipart/form-data; boundary=b\n", "multipart/form-data; boundary=\"b\\\"\"\n", "--b\r\n", "\r\n--b\r\n", "\r\n--b--\r\n",
        "Content-Disposition: form-data; name=\"a\"; filename=b\r\n\r\n", "\r\n\r\n", "\"", "\\", ";",
    ],
}
