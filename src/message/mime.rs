//! What is in a message: its header block, its text parts and its attachments (RFC 2045, 2046, 2183, 2231), as places
//! in the message. Nothing is decoded or copied here but names.
//!
//! The structure is walked here, in one linear pass with bounds of its own, since a general parser's recursion into
//! nested messages, search for missing delimiters and decoded copies are without a bound that we could set. The fields
//! of a part, with their comments, quotes, continuations and charsets, are the MIME parser's (`mail_parser`).
//! A message attached to a message is one attachment and is not looked into.
//!
//! Logs nothing but a panic of that parser, and without its text; cannot fail: where the parser gives up, all of the
//! body is plain text.

use super::field::{Field, Head, fields, head};
use super::parameter::Parameters;
use super::transfer::Encoding;
use super::{encoded_word, guard};
use memchr::{memchr, memmem};
use std::ops::Range;

/// Multiparts within multiparts; what is deeper is one opaque attachment.
pub const DEPTH_MAX: usize = 100;
/// Parts, multiparts among them; what follows them is one opaque attachment.
pub const PARTS_MAX: usize = 10_000;

/// What a part is in a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Plain,
    Html,
    Attachment,
}

/// How an attachment wants to be shown (RFC 2183).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Attachment,
    Inline,
}

/// One part that is no multipart. No `Debug`: its name is the sender's text.
pub struct Part {
    pub role: Role,
    /// `type/subtype`, lower case, of tokens only.
    pub content_type: String,
    pub charset: Option<String>,
    pub encoding: Encoding,
    pub disposition: Disposition,
    /// Never empty: a part without a name is given one.
    pub file_name: String,
    /// Without `<>`.
    pub content_id: Option<String>,
    /// The content in the message, still encoded.
    pub body: Range<usize>,
}

/// A message taken apart.
pub struct Structure {
    /// The message's own header fields.
    pub header: Range<usize>,
    /// In message order.
    pub parts: Vec<Part>,
}

/// Takes a message apart.
#[must_use]
pub fn structure(message: &[u8]) -> Structure {
    structure_by(message, |walk| walk.run())
}

fn structure_by(message: &[u8], walk: impl FnOnce(Walk<'_>) -> Vec<Part>) -> Structure {
    let top = head(message, 0, |_| false);
    let parts = guard::quietly(|| walk(Walk::new(message)))
        .unwrap_or_else(|| vec![Part::new(Entity::default(), Role::Plain, top.body..message.len(), 0)]);
    Structure { header: 0..top.end, parts }
}

impl Structure {
    /// Octets held for it, about.
    #[must_use]
    pub fn held(&self) -> usize {
        let text = |part: &Part| part.file_name.len() + part.content_type.len() + part.content_id.as_ref().map_or(0, String::len);
        self.parts.iter().map(|part| size_of::<Part>() + text(part)).sum()
    }
}

impl Part {
    fn new(entity: Entity, role: Role, body: Range<usize>, number: usize) -> Self {
        let file_name = entity.file_name.unwrap_or_else(|| default_name(&entity.content_type, number));
        Self {
            role,
            file_name,
            content_type: entity.content_type,
            charset: entity.charset,
            encoding: entity.encoding,
            disposition: entity.disposition.unwrap_or(Disposition::Attachment),
            content_id: entity.content_id,
            body,
        }
    }
}

/// `attachment-<number>` with what the type says as its ending.
fn default_name(content_type: &str, number: usize) -> String {
    let ending = match content_type.split_once('/') {
        Some(("message", "rfc822" | "global")) => "eml",
        Some(("text", "plain")) => "txt",
        Some(("text", "calendar")) => "ics",
        Some((_, subtype)) if subtype.len() <= 5 && subtype.bytes().all(|octet| octet.is_ascii_alphanumeric()) => subtype,
        _ => "bin",
    };
    format!("attachment-{number}.{ending}")
}

/// What the fields of a part say about it.
struct Entity {
    content_type: String,
    /// It is a multipart, of this delimiter.
    boundary: Option<Vec<u8>>,
    charset: Option<String>,
    encoding: Encoding,
    disposition: Option<Disposition>,
    file_name: Option<String>,
    content_id: Option<String>,
}

impl Default for Entity {
    /// Without any field (RFC 2045 section 5.2).
    fn default() -> Self {
        Self {
            content_type: "text/plain".to_owned(),
            boundary: None,
            charset: None,
            encoding: Encoding::Identity,
            disposition: None,
            file_name: None,
            content_id: None,
        }
    }
}

impl Entity {
    /// Of each field the first counts.
    fn read(header: &[u8], in_digest: bool) -> Self {
        let (mut content_type, mut disposition, mut encoding, mut content_id) = (None, None, None, None);
        for field in fields(header) {
            // All names looked for start with this letter.
            if !matches!(field.name.first(), Some(b'c' | b'C')) {
                continue;
            }
            let slot = match field.name {
                name if name.eq_ignore_ascii_case(b"content-type") => &mut content_type,
                name if name.eq_ignore_ascii_case(b"content-disposition") => &mut disposition,
                name if name.eq_ignore_ascii_case(b"content-transfer-encoding") => &mut encoding,
                name if name.eq_ignore_ascii_case(b"content-id") => &mut content_id,
                _ => continue,
            };
            *slot = slot.or(Some(field));
        }
        let mut entity = Self::default();
        if in_digest && content_type.is_none() {
            "message/rfc822".clone_into(&mut entity.content_type);
        }
        if let Some(field) = disposition
            && let Some(value) = Parameters::parse(field.body)
        {
            // A kind that is unknown is an attachment (RFC 2183 section 2.8).
            let inline = value.main().eq_ignore_ascii_case("inline");
            entity.disposition = Some(if inline { Disposition::Inline } else { Disposition::Attachment });
            entity.file_name = value.get("filename");
        }
        if let Some(field) = content_type {
            entity.read_type(&field);
        }
        if let Some(field) = encoding {
            entity.encoding = Encoding::named(field.body);
        }
        if let Some(field) = content_id {
            let id = encoded_word::unfold(field.body);
            let id = id.strip_prefix('<').unwrap_or(&id);
            let id = id.strip_suffix('>').unwrap_or(id).trim();
            entity.content_id = (!id.is_empty()).then(|| id.to_owned());
        }
        entity
    }

    fn read_type(&mut self, field: &Field<'_>) {
        let Some(value) = Parameters::parse(field.body) else { return };
        self.charset = value.get("charset");
        if self.file_name.is_none() {
            self.file_name = value.get("name");
        }
        if is_token(value.main()) && is_token(value.sub()) {
            self.content_type = format!("{}/{}", value.main(), value.sub()).to_ascii_lowercase();
        } else if self.file_name.is_some() {
            // A type that is none; the content is a file nevertheless.
            "application/octet-stream".clone_into(&mut self.content_type);
        }
        if self.content_type.starts_with("multipart/") {
            self.boundary = value.get("boundary").map(String::into_bytes);
            if self.boundary.is_none() {
                // Without a delimiter it can only be read.
                "text/plain".clone_into(&mut self.content_type);
            }
        }
    }

    /// What a part that is no multipart is, given the multipart around it, if there is one.
    fn role(&self, around: Option<&Level>) -> Role {
        let role = match self.content_type.as_str() {
            "text/plain" => Role::Plain,
            "text/html" => Role::Html,
            _ => return Role::Attachment,
        };
        // A named text is a file; but some name the alternatives of their text, or their only text.
        let may_be_named = around.is_none_or(|level| level.kind == "alternative");
        match self.disposition {
            Some(Disposition::Attachment) => Role::Attachment,
            _ if self.file_name.is_some() && !may_be_named => Role::Attachment,
            _ => role,
        }
    }
}

/// Letters, digits and what else RFC 6838 section 4.2 allows: safe in any header.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&octet))
}

/// A multipart that is open.
struct Level {
    boundary: Vec<u8>,
    /// The subtype.
    kind: String,
    /// A delimiter of its own has been seen.
    begun: bool,
    body: usize,
}

/// A delimiter line.
#[derive(Clone, Copy)]
struct Delimiter {
    level: usize,
    closes: bool,
    /// Where the content before it ends: its line end belongs to the delimiter (RFC 2046 section 5.1.1).
    content_end: usize,
    /// Behind its line.
    next: usize,
}

struct Walk<'a> {
    message: &'a [u8],
    hyphens: memmem::Finder<'static>,
    levels: Vec<Level>,
    parts: Vec<Part>,
    seen: usize,
    attachments: usize,
}

impl<'a> Walk<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self { message, hyphens: memmem::Finder::new(b"\n--"), levels: Vec::new(), parts: Vec::new(), seen: 0, attachments: 0 }
    }

    fn run(mut self) -> Vec<Part> {
        let end = self.message.len();
        let mut at = 0;
        loop {
            // A part starts here.
            let Head { end: header_end, body } = head(self.message, at, |line| self.delimiter_at(line).is_some());
            let in_digest = self.levels.last().is_some_and(|level| level.kind == "digest");
            let entity = Entity::read(self.message.get(at..header_end).unwrap_or_default(), in_digest);
            if self.seen == PARTS_MAX || (entity.boundary.is_some() && self.levels.len() == DEPTH_MAX) {
                self.rest(at..end);
                return self.parts;
            }
            self.seen += 1;
            let mut next = match &entity.boundary {
                Some(boundary) => {
                    let kind = entity.content_type.strip_prefix("multipart/").unwrap_or_default().to_owned();
                    self.levels.push(Level { boundary: boundary.clone(), kind, begun: false, body });
                    self.delimiter(body)
                }
                None => {
                    let next = self.delimiter(body);
                    self.leaf(entity, body..next.map_or(end, |delimiter| delimiter.content_end));
                    next
                }
            };
            // To the start of the next part.
            at = loop {
                let Some(delimiter) = next else {
                    self.close(0, end);
                    return self.parts;
                };
                self.close(delimiter.level + 1, delimiter.content_end);
                if !delimiter.closes {
                    if let Some(level) = self.levels.last_mut() {
                        level.begun = true;
                    }
                    break delimiter.next;
                }
                self.close(delimiter.level, delimiter.content_end);
                // An epilogue is no content.
                next = self.delimiter(delimiter.next);
            };
        }
    }

    fn leaf(&mut self, entity: Entity, body: Range<usize>) {
        let role = entity.role(self.levels.last());
        if role == Role::Attachment {
            self.attachments += 1;
        }
        // Two delimiters in a row leave less than nothing between them.
        let body = body.start..body.end.max(body.start);
        self.parts.push(Part::new(entity, role, body, self.attachments));
    }

    /// What is beyond the bounds, as it came.
    fn rest(&mut self, body: Range<usize>) {
        self.attachments += 1;
        let entity = Entity { content_type: "application/octet-stream".to_owned(), ..Entity::default() };
        self.parts.push(Part::new(entity, Role::Attachment, body, self.attachments));
    }

    /// Closes the levels from `depth` on. A multipart in which no delimiter came is not what it says: it is text.
    fn close(&mut self, depth: usize, content_end: usize) {
        while self.levels.len() > depth
            && let Some(level) = self.levels.pop()
        {
            if !level.begun {
                self.parts.push(Part::new(Entity::default(), Role::Plain, level.body..content_end.max(level.body), 0));
            }
        }
    }

    /// The first delimiter of any open multipart from here on; `from` is the start of a line.
    fn delimiter(&self, from: usize) -> Option<Delimiter> {
        if self.levels.is_empty() {
            return None;
        }
        let mut at = from;
        loop {
            let rest = self.message.get(at..)?;
            if rest.starts_with(b"--")
                && let Some(found) = self.delimiter_at(at)
            {
                return Some(found);
            }
            at += self.hyphens.find(rest)? + 1;
        }
    }

    /// Whether the line here, which starts with two hyphens, is a delimiter. The innermost multipart is asked first;
    /// an outer one's delimiter ends the inner ones, closed or not.
    fn delimiter_at(&self, at: usize) -> Option<Delimiter> {
        let rest = self.message.get(at..)?;
        let line_len = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = rest.get(2..line_len)?.trim_ascii_end();
        let (level, closes) =
            self.levels.iter().enumerate().rev().find_map(|(level, open)| match line.strip_prefix(open.boundary.as_slice())? {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            })?;
        let before = self.message.get(..at)?;
        let before = before.strip_suffix(b"\n").map_or(before, |before| before.strip_suffix(b"\r").unwrap_or(before));
        Some(Delimiter { level, closes, content_end: before.len(), next: at + line_len })
    }
}

#[cfg(test)]
mod tests {
    use super::{DEPTH_MAX, Disposition, PARTS_MAX, Role, Structure, structure, structure_by};

    fn contents<'a>(message: &'a [u8], structure: &Structure) -> Vec<(Role, &'a str)> {
        let text = |part: &super::Part| std::str::from_utf8(&message[part.body.clone()]).unwrap();
        structure.parts.iter().map(|part| (part.role, text(part))).collect()
    }

    /// `depth` multiparts within one another, with a text in the innermost.
    fn nested(depth: usize) -> Vec<u8> {
        let levels = |line: fn(usize) -> String, order: &mut dyn Iterator<Item = usize>| order.map(line).collect::<String>();
        let open = levels(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"), &mut (0..depth));
        let close = levels(|n| format!("\r\n--b{n}--"), &mut (0..depth).rev());
        format!("{open}\r\ninnermost{close}\r\n").into_bytes()
    }

    #[test]
    fn what_is_too_deep_is_one_opaque_attachment() {
        let message = nested(DEPTH_MAX);
        assert_eq!(contents(&message, &structure(&message)), [(Role::Plain, "innermost")]);
        let message = nested(DEPTH_MAX + 1);
        let deep = structure(&message);
        let [(Role::Attachment, rest)] = contents(&message, &deep)[..] else { panic!("one attachment expected") };
        assert!(rest.starts_with("Content-Type: multipart/mixed; boundary=b100\r\n") && rest.ends_with("--b0--\r\n"));
        assert_eq!(deep.parts[0].content_type, "application/octet-stream");
    }

    #[test]
    fn what_is_too_much_is_one_opaque_attachment() {
        let mail =
            |parts: usize| ["Content-Type: multipart/mixed; boundary=b\r\n\r\n", &"--b\r\n\r\nx\r\n".repeat(parts), "--b--\r\n"].concat();
        // The multipart itself is one of them.
        let message = mail(PARTS_MAX - 1);
        let all = structure(message.as_bytes());
        assert_eq!(all.parts.iter().filter(|part| part.role == Role::Plain).count(), PARTS_MAX - 1);
        assert_eq!(all.parts.len(), PARTS_MAX - 1);
        let message = mail(PARTS_MAX + 1);
        let found = structure(message.as_bytes());
        assert_eq!(found.parts.len(), PARTS_MAX);
        assert_eq!(contents(message.as_bytes(), &found).last(), Some(&(Role::Attachment, "\r\nx\r\n--b\r\n\r\nx\r\n--b--\r\n")));
    }

    #[test]
    fn where_the_parser_gives_up_all_is_plain_text() {
        let message = b"Subject: a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b--\r\n";
        let found = structure_by(message, |_| panic!("as a parser's bug would"));
        assert_eq!(contents(message, &found), [(Role::Plain, "--b\r\n\r\ntext\r\n--b--\r\n")]);
        assert_eq!(&message[found.header], b"Subject: a\r\nContent-Type: multipart/mixed; boundary=b\r\n");
    }

    #[test]
    fn roles_and_dispositions() {
        let table: &[(&str, Role, Disposition)] = &[
            ("", Role::Plain, Disposition::Attachment),
            ("Content-Type: text/html\r\n", Role::Html, Disposition::Attachment),
            ("Content-Type: TEXT/HTML\r\nContent-Disposition: inline\r\n", Role::Html, Disposition::Inline),
            ("Content-Disposition: attachment\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Disposition: unknown\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: image/png\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: image/png\r\nContent-Disposition: INLINE; filename=a\r\n", Role::Attachment, Disposition::Inline),
            ("Content-Type: text/plain; name=a.txt\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: message/rfc822\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: nonsense\r\n", Role::Plain, Disposition::Attachment),
        ];
        for (header, role, disposition) in table {
            let message = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{header}\r\nx\r\n--b--\r\n");
            let found = structure(message.as_bytes());
            assert_eq!(found.parts[0].disposition, *disposition, "{header:?}");
            assert_eq!(contents(message.as_bytes(), &found), [(*role, "x")], "{header:?}");
        }
        let only = structure(b"Content-Type: text/plain; name=a.txt\r\n\r\nx");
        assert_eq!(only.parts[0].role, Role::Plain, "the only text may have a name");
    }
}
