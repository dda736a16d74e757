//! The header block of a message while it comes (RFC 5322 section 2.2): where it ends, and the fields that are logged. Each octet is seen
//! once, in pieces cut anywhere, whether or not the message is kept.
//!
//! The block ends with its blank line, or before the first line that is no field: what no mail program wrote as a header is text. But where a
//! field that only headers have follows it, before any blank line, it is junk in the middle, and the header goes on; and so does a list of
//! parameters whose fold has lost its blank. A byte-order mark, an mbox `From ` line and lines that begin with a blank are passed over in front
//! of the first field; blanks before the colon are obsolete syntax (section 4.5) and still a field. Lines end with LF, with or without a CR.
//! Logs nothing, cannot fail.

use super::encoded_word;
use super::field::{BYTE_ORDER_MARK, NAME_MAX, PARAMETER_MAX, is_blank, is_of_name};
use memchr::memchr;

/// Longest text of a field that is recorded, octets.
const TEXT_MAX: usize = 998;
/// Of a field so many octets are looked at for its text: encoded words are longer than what they say.
const RAW_MAX: usize = 8 * 1024;
/// The longest name of interest.
const MESSAGE_ID: &[u8; 10] = b"message-id";
/// Behind a line that is no field so much is looked at for one that is a header's.
const DOUBT_MAX: usize = 2 * 1024;
/// How names begin that stand in no text.
const OF_HEADERS_ONLY: [&[u8]; 3] = [b"content-", b"mime-versi", b"x-"];
/// Names that stand in texts too, where they quote a header: one that has come already says nothing.
const ONCE: [&[u8]; 5] = [b"from", b"to", b"subject", b"date", MESSAGE_ID];

/// A header block and the body behind it, as places in the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// End of the fields.
    pub end: usize,
    /// Start of the body.
    pub body: usize,
}

/// What the line is, as far as it has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// So many octets of a byte-order mark, at the very start.
    Mark(usize),
    #[default]
    Start,
    /// A CR alone, so far.
    Cr,
    /// A name, so far.
    Name,
    /// A name and blanks.
    Blanks,
    /// A field's body.
    Body,
    /// In front of the first field: `From ` of an mbox, the continuation of nothing.
    Passed,
    /// Of no field, behind some.
    Odd,
    /// The block is over.
    Over,
}

/// The field that the line belongs to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    MessageId,
    Subject,
    #[default]
    Other,
}

/// A field's body: a place in the message, or its octets, once the message goes.
#[derive(Default)]
struct Value {
    start: usize,
    end: usize,
    apart: Vec<u8>,
}

/// What has been seen of the block.
#[derive(Default)]
pub struct Scan {
    seen: usize,
    line_start: usize,
    line: Line,
    name: [u8; MESSAGE_ID.len()],
    name_len: usize,
    kind: Kind,
    any_field: bool,
    any_passed: bool,
    /// It is the header of a part: others than `Content-` say nothing.
    of_part: bool,
    /// Which of `ONCE` have come.
    once: [bool; ONCE.len()],
    /// The field is one of `Content-`, and its last octet but for blanks.
    content: bool,
    last: u8,
    /// The line above ends in a semicolon, and this one has its equals sign.
    unfinished: bool,
    equals: bool,
    /// Where the header ends if nothing of one comes any more, and `Received` fields since.
    doubt: Option<usize>,
    received_in_doubt: u32,
    received: u32,
    message_id: Option<Value>,
    subject: Option<Value>,
    /// The message goes, its values are kept.
    apart: bool,
    head: Head,
}

impl Scan {
    /// The next octets of the message.
    pub fn feed(&mut self, octets: &[u8]) {
        let base = self.seen;
        self.seen += octets.len();
        let mut at = 0;
        while let Some(rest @ [first, ..]) = octets.get(at..) {
            match self.line {
                Line::Over => return,
                Line::Start if base + at == 0 && BYTE_ORDER_MARK.starts_with(&[*first]) => {
                    self.line = Line::Mark(1);
                    at += 1;
                }
                Line::Start => {
                    self.line_start = base + at;
                    (self.name_len, self.equals) = (0, false);
                    self.unfinished = self.content && self.last == b';';
                    if self.doubt.is_some_and(|doubt| base + at >= doubt + DOUBT_MAX) {
                        self.give_up()
                    } else {
                        at += self.start(*first, base + at)
                    }
                }
                Line::Mark(came) if BYTE_ORDER_MARK.get(came) == Some(first) => {
                    self.line = if came + 1 < BYTE_ORDER_MARK.len() { Line::Mark(came + 1) } else { Line::Start };
                    at += 1;
                }
                Line::Cr if *first == b'\n' => self.blank_line(base + at + 1),
                Line::Mark(came) => {
                    self.line = Line::Name;
                    self.name_len = came;
                }
                Line::Odd if self.doubt.is_some_and(|doubt| base + at >= doubt + DOUBT_MAX) => self.give_up(),
                Line::Cr => self.no_field(),
                Line::Name => at += self.name(rest, base + at),
                Line::Blanks => at += self.blanks(rest, base + at),
                Line::Body | Line::Passed | Line::Odd => {
                    let end = memchr(b'\n', rest);
                    let line = end.map_or(rest, |end| rest.get(..=end).unwrap_or(rest));
                    at += line.len();
                    if self.line == Line::Body {
                        self.body(line, base + at);
                    }
                    if end.is_some() {
                        self.line = Line::Start;
                    }
                }
            }
        }
    }

    /// The first octet of a line; how many were used.
    fn start(&mut self, first: u8, at: usize) -> usize {
        match first {
            b'\n' => self.blank_line(at + 1),
            b'\r' => self.line = Line::Cr,
            b' ' | b'\t' if self.any_field => {
                self.line = if self.doubt.is_some() { Line::Odd } else { Line::Body };
                return 0;
            }
            b' ' | b'\t' => {
                self.pass();
                return 0;
            }
            octet if is_of_name(octet) => {
                self.line = Line::Name;
                return 0;
            }
            _ => {
                self.no_field();
                return 0;
            }
        }
        1
    }

    fn name(&mut self, rest: &[u8], at: usize) -> usize {
        let run = rest.iter().position(|octet| !is_of_name(*octet)).unwrap_or(rest.len());
        if let (Some(room), Some(octets)) = (self.name.get_mut(self.name_len..), rest.get(..run)) {
            room.iter_mut().zip(octets).for_each(|(place, octet)| *place = *octet);
        }
        if self.unfinished {
            let looked_at = rest.get(..run.min(PARAMETER_MAX.saturating_sub(self.name_len))).unwrap_or_default();
            self.equals |= looked_at.contains(&b'=');
            self.last = run.checked_sub(1).and_then(|last| rest.get(last)).copied().unwrap_or(self.last);
        }
        self.name_len += run;
        match rest.get(run) {
            _ if self.name_len > NAME_MAX => self.no_field(),
            None => {}
            Some(b':') => {
                self.colon(at + run + 1);
                return run + 1;
            }
            Some(b' ' | b'\t') => self.line = Line::Blanks,
            Some(_) => self.no_field(),
        }
        run
    }

    fn blanks(&mut self, rest: &[u8], at: usize) -> usize {
        let run = rest.iter().take_while(|octet| is_blank(**octet)).count();
        match rest.get(run) {
            None => {}
            Some(b':') => {
                self.colon(at + run + 1);
                return run + 1;
            }
            // As mailboxes of old have it, and quoted as they quote it.
            Some(_) if !self.any_field && matches!(self.name.get(..self.name_len), Some(b"From" | b">From")) => self.pass(),
            Some(octet) => {
                self.equals |= *octet == b'=';
                self.no_field();
            }
        }
        run
    }

    fn colon(&mut self, body: usize) {
        let known = self.name.map(|octet| octet.to_ascii_lowercase());
        let known = known.get(..self.name_len).unwrap_or(&known);
        // Of a longer name there is only the beginning.
        let is_whole = self.name_len == known.len();
        let once = ONCE.iter().zip(&mut self.once).find(|(name, _)| known == **name && is_whole && !self.of_part);
        if self.doubt.is_some() {
            let surely = if self.of_part { &OF_HEADERS_ONLY[..1] } else { &OF_HEADERS_ONLY[..] };
            if !(surely.iter().any(|start| known.starts_with(start)) || once.as_ref().is_some_and(|(_, came)| !**came)) {
                self.line = Line::Odd;
                self.received_in_doubt += u32::from(known == b"received");
                return;
            }
            self.doubt = None;
            self.received = self.received.saturating_add(std::mem::take(&mut self.received_in_doubt));
        }
        if let Some((_, came)) = once {
            *came = true;
        }
        (self.content, self.last) = (known.starts_with(b"content-"), 0);
        self.any_field = true;
        self.line = Line::Body;
        self.kind = Kind::Other;
        let value = || Some(Value { start: body, end: body, apart: Vec::new() });
        let Some(name) = self.name.get(..self.name_len) else { return };
        if name.eq_ignore_ascii_case(b"received") {
            self.received = self.received.saturating_add(1);
        } else if self.message_id.is_none() && name.eq_ignore_ascii_case(MESSAGE_ID) {
            self.kind = Kind::MessageId;
            self.message_id = value();
        } else if self.subject.is_none() && name.eq_ignore_ascii_case(b"subject") {
            self.kind = Kind::Subject;
            self.subject = value();
        }
    }

    fn body(&mut self, line: &[u8], end: usize) {
        if self.content {
            self.last = line.iter().rev().find(|octet| !octet.is_ascii_whitespace()).copied().unwrap_or(self.last);
        }
        let value = match self.kind {
            Kind::MessageId => &mut self.message_id,
            Kind::Subject => &mut self.subject,
            Kind::Other => return,
        };
        if let Some(value) = value {
            value.end = end;
            if self.apart {
                value.keep(line);
            }
        }
    }

    fn pass(&mut self) {
        self.line = Line::Passed;
        self.any_passed = true;
    }

    /// Behind lines that were passed over it ends no header, so they were none of one.
    fn blank_line(&mut self, body: usize) {
        if self.doubt.is_none() && (self.any_field || !self.any_passed) { self.over(self.line_start, body) } else { self.give_up() }
    }

    /// The line is no field: the header ends above it, unless it goes on below.
    fn no_field(&mut self) {
        if self.unfinished && self.equals && self.doubt.is_none() {
            self.line = Line::Body;
            return;
        }
        self.content = false;
        self.doubt.get_or_insert(if self.any_field { self.line_start } else { 0 });
        // A delimiter is no junk.
        let is_delimiter = self.name.get(..self.name_len.min(2)) == Some(b"--");
        if self.any_field && !is_delimiter { self.line = Line::Odd } else { self.give_up() }
    }

    /// Nothing of a header comes any more.
    fn give_up(&mut self) {
        let end = self.doubt.unwrap_or_default();
        self.over(end, end);
    }

    fn over(&mut self, end: usize, body: usize) {
        self.line = Line::Over;
        self.head = Head { end, body };
    }

    /// The message has no more octets.
    pub fn end(&mut self) {
        match self.line {
            Line::Over => return,
            Line::Mark(_) | Line::Cr | Line::Name | Line::Blanks => self.no_field(),
            Line::Start | Line::Body | Line::Passed | Line::Odd => {}
        }
        match self.line {
            Line::Start | Line::Body if self.any_field && self.doubt.is_none() => self.over(self.seen, self.seen),
            Line::Over => {}
            Line::Start | Line::Body | Line::Mark(_) | Line::Cr | Line::Name | Line::Blanks | Line::Passed | Line::Odd => self.give_up(),
        }
    }

    /// Where the block ends and the body begins; while it is open, as far as it has come.
    #[must_use]
    pub fn head(&self) -> Head {
        match self.line {
            Line::Over => self.head,
            Line::Start | Line::Body if self.doubt.is_none() => Head { end: self.seen, body: self.seen },
            // It is not known yet whether the line is the header's.
            Line::Start | Line::Body | Line::Mark(_) | Line::Cr | Line::Name | Line::Blanks | Line::Passed | Line::Odd => {
                let end = self.doubt.unwrap_or(self.line_start);
                Head { end, body: end }
            }
        }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.line == Line::Over
    }

    /// Number of `Received` fields.
    #[must_use]
    pub fn received(&self) -> u32 {
        self.received
    }

    /// The octets so far, `message`, will not be there any more: what is needed of them is kept.
    pub fn take_apart(&mut self, message: &[u8]) {
        if std::mem::replace(&mut self.apart, true) {
            return;
        }
        for value in [&mut self.message_id, &mut self.subject].into_iter().flatten() {
            value.keep(message.get(value.start..value.end).unwrap_or_default());
        }
    }

    /// The first Message-ID's body, still folded.
    #[must_use]
    pub fn message_id<'a>(&'a self, message: &'a [u8]) -> Option<&'a [u8]> {
        self.message_id.as_ref().map(|value| value.octets(self.apart, message))
    }

    /// The first Subject's body, still folded and encoded.
    #[must_use]
    pub fn subject<'a>(&'a self, message: &'a [u8]) -> Option<&'a [u8]> {
        self.subject.as_ref().map(|value| value.octets(self.apart, message))
    }
}

impl Value {
    fn keep(&mut self, octets: &[u8]) {
        let room = (RAW_MAX + 2).saturating_sub(self.apart.len());
        self.apart.extend_from_slice(octets.get(..room).unwrap_or(octets));
    }

    /// Without the line end; no more than anybody reads.
    fn octets<'a>(&'a self, apart: bool, message: &'a [u8]) -> &'a [u8] {
        let octets = if apart { &self.apart } else { message.get(self.start..self.end).unwrap_or_default() };
        if let Some(cut) = octets.get(..RAW_MAX + 2) {
            return cut.get(..RAW_MAX).unwrap_or(cut);
        }
        let line = octets.strip_suffix(b"\n").unwrap_or(octets);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.get(..RAW_MAX).unwrap_or(line)
    }
}

/// The header block that starts at `start` in a message that is there. `is_delimiter` says whether a line that starts with two hyphens
/// (given by its place) ends the part that the block belongs to.
#[must_use]
pub fn head(message: &[u8], start: usize, is_delimiter: impl Fn(usize) -> bool) -> Head {
    let (mut scan, mut at) = (Scan { of_part: start > 0, ..Scan::default() }, start);
    while let Some(rest @ [_, ..]) = message.get(at..).filter(|_| !scan.is_over()) {
        if rest.starts_with(b"--") && is_delimiter(at) {
            break;
        }
        let line = memchr(b'\n', rest).and_then(|end| rest.get(..=end)).unwrap_or(rest);
        scan.feed(line);
        at += line.len();
    }
    scan.end();
    let head = scan.head();
    Head { end: start + head.end, body: start + head.body }
}

/// Message-ID unfolded and trimmed, valid UTF-8, at most 998 octets.
#[must_use]
pub fn message_id_text(raw: &[u8]) -> String {
    one_line(encoded_word::unfold(raw))
}

/// Subject unfolded, RFC 2047-decoded to UTF-8, cut at 998 octets on a character's border.
#[must_use]
pub fn subject_text(raw: &[u8]) -> String {
    one_line(encoded_word::decode(raw))
}

/// Controls to blanks (also those that came out of an encoded word), since this text ends up in lines; cut.
fn one_line(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    // Nearly every text stays as it is: looked at octet by octet, without a branch for each.
    if text.bytes().fold(true, |all, octet| all & (b' '..=b'~').contains(&octet)) {
        return text;
    }
    let ends_lines = |c: char| encoded_word::is_line_control(c) || c.is_control();
    if !text.contains(ends_lines) {
        return text;
    }
    text.chars().map(|c| if ends_lines(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
