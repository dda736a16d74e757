//! What is in a message: its header block, its text parts and its attachments (RFC 2045, 2046, 2183, 2231), as places
//! in the message. Nothing is decoded or copied here but names.
//!
//! The structure is walked here, in one linear pass with bounds of its own, since a general parser's recursion into
//! nested messages, search for missing delimiters and decoded copies are without a bound that we could set. A message attached to a message
//! is one attachment and is not looked into. Logs nothing, cannot fail.

use super::encoded_word;
use super::field::fields;
use super::header::{Head, head};
use super::parameter::{Parameters, file_name};
use super::transfer::Encoding;
use memchr::{memchr, memmem};
use std::ops::Range;

/// Multiparts within multiparts; what is deeper is one opaque attachment.
pub const DEPTH_MAX: usize = 100;
/// Parts, multiparts among them; what follows them is one opaque attachment.
pub const PARTS_MAX: usize = 10_000;
/// A longer line is no delimiter that nobody announced.
const BOUNDARY_MAX: usize = 200;

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
    /// `type/subtype`, lower case, and of an attachment the parameters without which it cannot be read; of tokens only.
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
    Walk::new(message).run()
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
    fn new(entity: Entity, role: Role, encoding: Encoding, body: Range<usize>, number: usize) -> Self {
        let file_name = entity.file_name.unwrap_or_else(|| default_name(&entity.content_type, number));
        Self {
            role,
            file_name,
            content_type: entity.content_type + &entity.parameters,
            charset: entity.charset,
            encoding,
            disposition: entity.disposition.unwrap_or(Disposition::Attachment),
            content_id: entity.content_id,
            body,
        }
    }
}

/// `attachment-<number>` with what the type says as its ending.
fn default_name(content_type: &str, number: usize) -> String {
    let ending = match content_type.split_once('/').unwrap_or_default() {
        ("message", "rfc822" | "global" | "news") => "eml",
        ("text", "calendar") => "ics",
        ("text", "vcard" | "x-vcard" | "directory") => "vcf",
        ("text", "markdown") => "md",
        ("text", "html" | "csv" | "css" | "xml" | "rtf") => content_type.trim_start_matches("text/"),
        ("application", "rtf" | "pdf" | "zip" | "json" | "xml" | "ics") => content_type.trim_start_matches("application/"),
        // Reports, header blocks, and what else is meant to be read.
        ("text" | "message", _) => "txt",
        ("image", "pjpeg") => "jpeg",
        ("image", "svg+xml") => "svg",
        ("image", "tiff") => "tif",
        ("audio", "mpeg") => "mp3",
        ("audio" | "video", "mp4") => "mp4",
        ("application", "pgp-signature") => "asc",
        ("application", "pkcs7-signature" | "x-pkcs7-signature") => "p7s",
        ("application", "pkcs7-mime" | "x-pkcs7-mime") => "p7m",
        ("application", "msword") => "doc",
        ("application", "vnd.ms-excel") => "xls",
        ("application", "vnd.openxmlformats-officedocument.wordprocessingml.document") => "docx",
        ("application", "vnd.openxmlformats-officedocument.spreadsheetml.sheet") => "xlsx",
        ("application", "vnd.openxmlformats-officedocument.presentationml.presentation") => "pptx",
        ("image" | "audio" | "video", kind) if kind.len() <= 5 && kind.bytes().all(|octet| octet.is_ascii_alphanumeric()) => kind,
        _ => "bin",
    };
    format!("attachment-{number}.{ending}")
}

/// What the fields of a part say about it.
struct Entity {
    /// `type/subtype`, in lower case.
    content_type: String,
    /// What else must be known to read it as a file: `; charset=…`.
    parameters: String,
    /// It is a multipart, of this delimiter; empty if it does not say of which.
    boundary: Option<Vec<u8>>,
    charset: Option<String>,
    /// The name of its transfer encoding.
    encoding: String,
    disposition: Option<Disposition>,
    file_name: Option<String>,
    content_id: Option<String>,
}

impl Default for Entity {
    /// Without any field (RFC 2045 section 5.2).
    fn default() -> Self {
        Self {
            content_type: "text/plain".to_owned(),
            parameters: String::new(),
            boundary: None,
            charset: None,
            encoding: String::new(),
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
        if let Some(field) = disposition {
            let value = Parameters::parse(field.body);
            // A kind that is unknown is an attachment (RFC 2183 section 2.8).
            entity.disposition = match value.main() {
                "" => None,
                "inline" => Some(Disposition::Inline),
                _ => Some(Disposition::Attachment),
            };
            entity.file_name = value.get("filename").or_else(|| value.get("name")).and_then(|name| file_name(&name));
        }
        if let Some(field) = content_type {
            entity.read_type(&Parameters::parse(field.body));
        }
        if let Some(field) = encoding {
            entity.encoding = encoding_name(field.body);
        }
        if let Some(field) = content_id {
            let id = encoded_word::unfold(field.body);
            let id = id.strip_prefix('<').unwrap_or(&id);
            let id = id.strip_suffix('>').unwrap_or(id).trim();
            entity.content_id = (!id.is_empty()).then(|| id.to_owned());
        }
        entity
    }

    /// What a part that is no multipart is: only a disposition says that a text is a file (RFC 2183), a name does not.
    fn role(&self) -> Role {
        match (self.content_type.as_str(), self.disposition) {
            (_, Some(Disposition::Attachment)) => Role::Attachment,
            ("text/plain", _) => Role::Plain,
            ("text/html", _) => Role::Html,
            _ => Role::Attachment,
        }
    }

    fn read_type(&mut self, value: &Parameters) {
        self.charset = value.get("charset");
        if self.file_name.is_none() {
            self.file_name = value.get("name").or_else(|| value.get("filename")).and_then(|name| file_name(&name));
        }
        match (value.main(), value.sub()) {
            ("multipart", "") => "multipart/mixed".clone_into(&mut self.content_type),
            ("", _) if value.octets("boundary").is_some() => "multipart/mixed".clone_into(&mut self.content_type),
            ("html", "") => "text/html".clone_into(&mut self.content_type),
            (main, sub) if is_type(main) && is_type(sub) => self.content_type = format!("{main}/{sub}"),
            // A type that is none; the content is a file nevertheless.
            _ if self.file_name.is_some() => "application/octet-stream".clone_into(&mut self.content_type),
            _ => {}
        }
        if self.content_type.starts_with("multipart/") {
            let boundary = value.octets("boundary").map(<[u8]>::to_vec).or_else(|| Some(value.get("boundary")?.into_bytes()));
            self.boundary = Some(boundary.unwrap_or_default().trim_ascii_end().to_vec());
        }
        let shown: &[&str] = match value.main() {
            "text" => &["charset", "method", "component"],
            "application" => &["smime-type"],
            _ => &[],
        };
        for (name, known) in value.iter() {
            if shown.contains(&name) && known.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-_.:+".contains(octet)) {
                self.parameters.push_str(&format!("; {name}={}", String::from_utf8_lossy(known)));
            }
        }
    }
}

/// A transfer encoding's name, in lower case: without the quotes, signs and prefix that some write around it.
fn encoding_name(body: &[u8]) -> String {
    let value = Parameters::parse(body);
    let written = if value.main().is_empty() { encoded_word::decode(body) } else { value.main().to_owned() };
    let name: String = written.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    name.strip_prefix('x').map_or_else(|| name.clone(), str::to_owned)
}

/// Short enough for a type (RFC 6838 section 4.2).
fn is_type(token: &str) -> bool {
    (1..=127).contains(&token.len())
}

/// A multipart that is open.
struct Level {
    boundary: Vec<u8>,
    /// The subtype.
    kind: String,
    /// Its parts so far.
    parts: usize,
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

    fn run(mut self) -> Structure {
        // A delimiter ends the message's header too, once its type has said what one is.
        let mut top = head(self.message, 0, |_| false);
        let boundary = Entity::read(self.message.get(..top.end).unwrap_or_default(), false).boundary;
        if let Some(boundary) = boundary.filter(|boundary| !boundary.is_empty()) {
            self.levels.push(Level { boundary, kind: String::new(), parts: 0, body: 0 });
            top = head(self.message, 0, |line| self.delimiter_at(line).is_some());
            self.levels.clear();
        }
        Structure { header: 0..top.end, parts: self.parts(top) }
    }

    fn parts(mut self, top: Head) -> Vec<Part> {
        let end = self.message.len();
        let (mut at, mut here) = (0, top);
        loop {
            // A part starts here.
            let Head { end: header_end, body } = here;
            let in_digest = self.levels.last().is_some_and(|level| level.kind == "digest");
            let mut entity = Entity::read(self.message.get(at..header_end).unwrap_or_default(), in_digest);
            if self.seen == PARTS_MAX || (entity.boundary.is_some() && self.levels.len() == DEPTH_MAX) {
                self.rest(at..end);
                return self.parts;
            }
            self.seen += 1;
            let inner = entity.boundary.take().and_then(|boundary| self.open(boundary, &entity.content_type, body));
            let mut next = inner.or_else(|| {
                let next = self.delimiter(body);
                self.leaf(entity, body..next.map_or(end, |delimiter| delimiter.content_end));
                next
            });
            // To the start of the next part.
            at = loop {
                let Some(delimiter) = next else {
                    self.close(0, end);
                    return self.parts;
                };
                self.close(delimiter.level + 1, delimiter.content_end);
                if !delimiter.closes {
                    if let Some(level) = self.levels.last_mut() {
                        level.parts += 1;
                    }
                    break delimiter.next;
                }
                self.close(delimiter.level, delimiter.content_end);
                // An epilogue is no content.
                next = self.delimiter(delimiter.next);
            };
            here = head(self.message, at, |line| self.delimiter_at(line).is_some());
        }
    }

    /// Opens a multipart, as far as a delimiter of its own comes; without one it is not what it says.
    fn open(&mut self, boundary: Vec<u8>, content_type: &str, body: usize) -> Option<Delimiter> {
        let kind = content_type.strip_prefix("multipart/").unwrap_or_default().to_owned();
        self.levels.push(Level { boundary, kind, parts: 0, body });
        let next = self.delimiter(body);
        if next.is_some_and(|next| next.level + 1 == self.levels.len()) {
            return next;
        }
        let unannounced = self.delimiter_within(body..next.map_or(self.message.len(), |next| next.content_end));
        let level = self.levels.pop()?;
        self.levels.push(Level { boundary: unannounced?, ..level });
        self.delimiter(body)
    }

    /// The delimiter of a multipart that does not say which it has, or says another one: two hyphens, and a part's header below.
    fn delimiter_within(&self, content: Range<usize>) -> Option<Vec<u8>> {
        let octets = self.message.get(content)?;
        let mut at = 0;
        loop {
            let rest = octets.get(at..)?;
            if let Some(line) = rest.strip_prefix(b"--") {
                let (line, below) = line.split_at_checked(memchr(b'\n', line)?)?;
                let boundary = line.trim_ascii_end();
                let begins_part = below.get(1..9).is_some_and(|name| name.eq_ignore_ascii_case(b"content-"));
                if begins_part && (1..=BOUNDARY_MAX).contains(&boundary.len()) {
                    return Some(boundary.to_vec());
                }
            }
            at += self.hyphens.find(rest)? + 1;
        }
    }

    fn leaf(&mut self, mut entity: Entity, body: Range<usize>) {
        if entity.content_type.starts_with("multipart/") {
            // Without a delimiter it can only be read.
            "text/plain".clone_into(&mut entity.content_type);
        }
        // Two delimiters in a row leave less than nothing between them.
        let body = body.start..body.end.max(body.start);
        let role = entity.role();
        if role == Role::Attachment {
            self.attachments += 1;
        } else {
            entity.parameters.clear();
        }
        if entity.disposition.is_none() && entity.content_id.is_some() && self.levels.iter().any(|level| level.kind == "related") {
            // What a text beside it shows.
            entity.disposition = Some(Disposition::Inline);
        }
        let octets = self.message.get(body.clone()).unwrap_or_default();
        let encoding = Encoding::of(&entity.encoding, octets, role != Role::Attachment);
        self.parts.push(Part::new(entity, role, encoding, body, self.attachments));
    }

    /// What is beyond the bounds, as it came.
    fn rest(&mut self, body: Range<usize>) {
        self.attachments += 1;
        let entity = Entity { content_type: "application/octet-stream".to_owned(), ..Entity::default() };
        self.parts.push(Part::new(entity, Role::Attachment, Encoding::Identity, body, self.attachments));
    }

    /// Closes the levels from `depth` on. A multipart whose only delimiter is its end has no part: it is text.
    fn close(&mut self, depth: usize, content_end: usize) {
        while self.levels.len() > depth
            && let Some(level) = self.levels.pop()
        {
            if level.parts == 0 {
                let body = level.body..content_end.max(level.body);
                self.parts.push(Part::new(Entity::default(), Role::Plain, Encoding::Identity, body, 0));
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
                _ if open.boundary.is_empty() => None,
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
    use super::{DEPTH_MAX, Disposition, PARTS_MAX, Role, Structure, structure};

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
    fn roles_and_dispositions() {
        let table: &[(&str, Role, Disposition)] = &[
            ("", Role::Plain, Disposition::Attachment),
            ("Content-Type: text/html\r\n", Role::Html, Disposition::Attachment),
            ("Content-Type: TEXT/HTML\r\nContent-Disposition: inline\r\n", Role::Html, Disposition::Inline),
            ("Content-Disposition: attachment\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Disposition: unknown\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: image/png\r\n", Role::Attachment, Disposition::Attachment),
            ("Content-Type: image/png\r\nContent-Disposition: INLINE; filename=a\r\n", Role::Attachment, Disposition::Inline),
            ("Content-Type: text/plain; name=a.txt\r\n", Role::Plain, Disposition::Attachment),
            ("Content-Type: text/html; name=a.htm\r\nContent-Disposition: inline\r\n", Role::Html, Disposition::Inline),
            ("Content-Type: text/plain\r\nContent-Disposition: ; filename=a.txt\r\n", Role::Plain, Disposition::Attachment),
            ("Content-ID: <a>\r\nContent-Type: image/png\r\n", Role::Attachment, Disposition::Attachment),
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
