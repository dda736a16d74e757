//! Paths of MAIL and RCPT: what is taken is a mailbox whose text is its own text, behind it stands the rest of the argument, and its canonical
//! spelling has none but itself.

use mailsluice::mailbox;
use mailsluice::smtp::path::{forward, reverse};

pub fn run(octets: &[u8]) {
    let argument = String::from_utf8_lossy(octets);
    for text in [argument.as_ref(), &format!("<{argument}>"), &format!("<{argument}@example.org>"), &format!("\"{argument}\"@example.org")]
    {
        for path in [reverse(text), forward(text)].into_iter().flatten() {
            assert!(text.ends_with(path.rest) && (path.rest.is_empty() || path.rest.starts_with([' ', '\t'])), "{text:?}");
            let taken = &text[..text.len() - path.rest.len()];
            assert_eq!(path.ascii, taken.is_ascii(), "{text:?}");
            assert!(!path.mailbox.chars().any(char::is_control), "{:?}", path.mailbox);
            if path.mailbox.is_empty() {
                continue;
            }
            let again = forward(&format!("<{}>", path.mailbox)).map(|path| path.mailbox);
            assert_eq!(again.as_deref(), Ok(path.mailbox.as_str()));
            let canonical = mailbox::canonical(&path.mailbox);
            assert_eq!(mailbox::canonical(&canonical), canonical, "{:?}", path.mailbox);
        }
    }
}
