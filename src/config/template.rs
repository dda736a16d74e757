//! Placeholders in a route's URL and headers: read once, filled in for each recipient. What is filled in can neither lead to another origin
//! nor climb out of its path segment nor end a header's line. Logs nothing; a recipient that has no place in a path has no target.

use super::{Secret, Target};
use crate::mailbox;
use std::fmt::Write as _;
use url::{Position, Url};

/// A part of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Recipient,
    Local,
    Tag,
    Domain,
}

const NAMES: [(&str, Placeholder); 4] =
    [("recipient", Placeholder::Recipient), ("local", Placeholder::Local), ("tag", Placeholder::Tag), ("domain", Placeholder::Domain)];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Secret),
    Filled(Placeholder),
}

/// A text with placeholders in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

/// A URL whose path or query has placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlTemplate {
    /// Scheme, host and port.
    origin: String,
    segments: Vec<Template>,
    query: Option<Template>,
}

/// What differs between a route's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// `None`: all have the same.
    pub(super) url: Option<UrlTemplate>,
    /// Of all headers.
    pub(super) headers: Vec<Template>,
}

/// A recipient's parts.
struct Parts<'m> {
    recipient: &'m str,
    local: String,
    tag: String,
    domain: String,
}

/// Text that is parsed as a URL in place of a URL with placeholders: letters and digits, which no parser changes.
pub(super) struct Marked {
    pub(super) text: String,
    mark: String,
}

impl Template {
    /// `{{` and `}}` are braces. The error says what is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Self::default();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, behind) = rest.split_at_checked(at).unwrap_or((rest, ""));
            pieces.push_text(before);
            rest = if let Some(rest) = behind.strip_prefix("{{").or_else(|| behind.strip_prefix("}}")) {
                pieces.push_text(behind.get(..1).unwrap_or_default());
                rest
            } else {
                let inside = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
                let (name, rest) = inside.ok_or("a brace stands alone")?;
                let known = NAMES.iter().find(|(known, _)| *known == name);
                let (_, placeholder) = known.ok_or_else(|| format!("{{{name}}} is no placeholder"))?;
                pieces.0.push(Piece::Filled(*placeholder));
                rest
            };
        }
        pieces.push_text(rest);
        Ok(pieces)
    }

    fn push_text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(before)) => *before = Secret::new(format!("{}{text}", before.expose())),
            Some(Piece::Filled(_)) | None => self.0.push(Piece::Text(Secret::new(text))),
        }
    }

    pub(super) fn has_placeholders(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Filled(_)))
    }

    /// The text, of a template without placeholders.
    pub(super) fn literal(&self) -> String {
        self.0.iter().map(|piece| if let Piece::Text(text) = piece { text.expose() } else { "" }).collect()
    }

    /// A percent sign whose digits a recipient would write: it would say an octet that the template does not.
    fn opens_escape(&self) -> bool {
        self.0.windows(2).any(|pair| {
            let [Piece::Text(text), Piece::Filled(_)] = pair else { return false };
            match text.expose().as_bytes() {
                [.., b'%'] => true,
                [.., b'%', digit] => digit.is_ascii_hexdigit(),
                _ => false,
            }
        })
    }

    fn fill(&self, parts: &Parts<'_>, out: &mut String, mut put: impl FnMut(&mut String, &str) -> Option<()>) -> Option<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text.expose()),
                Piece::Filled(placeholder) => put(out, parts.get(*placeholder))?,
            }
        }
        Some(())
    }

    /// A header's value for a recipient, its own text hidden: that may be a secret.
    pub(super) fn shown(&self, recipient: &str, hostname: &str) -> String {
        let parts = Parts::of(recipient, hostname);
        let shown = self.0.iter().map(|piece| match piece {
            Piece::Text(_) => "(secret)".to_owned(),
            Piece::Filled(placeholder) => mailbox::in_header(parts.get(*placeholder)),
        });
        shown.collect()
    }
}

impl Placeholder {
    fn index(self) -> usize {
        NAMES.iter().position(|(_, placeholder)| *placeholder == self).unwrap_or_default()
    }

    fn name(self) -> &'static str {
        NAMES.get(self.index()).map_or("", |(name, _)| name)
    }
}

impl<'m> Parts<'m> {
    /// A postmaster without a domain is this host's.
    fn of(recipient: &'m str, hostname: &str) -> Self {
        let (local, domain) = mailbox::split(recipient);
        let local = mailbox::content(local).unwrap_or_else(|| local.to_owned());
        let (local, tag) = local.split_once('+').map_or((local.as_str(), ""), |parts| parts);
        Self { recipient, local: local.to_owned(), tag: tag.to_owned(), domain: mailbox::domain(domain.unwrap_or(hostname)) }
    }

    fn get(&self, placeholder: Placeholder) -> &str {
        match placeholder {
            Placeholder::Recipient => self.recipient,
            Placeholder::Local => &self.local,
            Placeholder::Tag => &self.tag,
            Placeholder::Domain => &self.domain,
        }
    }
}

impl Marked {
    /// Of a URL's part behind the authority, `before` which no placeholder may stand.
    pub(super) fn of(before: &str, behind: &str) -> Result<Self, String> {
        if let Some((name, _)) = NAMES.iter().find(|(name, _)| before.contains(&format!("{{{name}}}"))) {
            return Err(format!("{{{name}}} stands before the path"));
        }
        let template = Template::parse(behind)?;
        let mark = (0..).map(|n| format!("zq{n}q")).find(|mark| !before.contains(mark) && !behind.contains(mark)).unwrap_or_default();
        let mut text = before.to_owned();
        for piece in &template.0 {
            match piece {
                Piece::Text(literal) => text.push_str(&literal.expose().replace('{', "%7B").replace('}', "%7D")),
                Piece::Filled(placeholder) => _ = write!(text, "{mark}{}", placeholder.index()),
            }
        }
        Ok(Self { text, mark })
    }

    /// The placeholders that stand in a part of the parsed text.
    fn template(&self, text: &str) -> Template {
        let mut template = Template::default();
        let mut parts = text.split(self.mark.as_str());
        template.push_text(parts.next().unwrap_or_default());
        for part in parts {
            let (kind, rest) = part.split_at_checked(1).unwrap_or(("", part));
            let placeholder = kind.parse().ok().and_then(|at: usize| NAMES.get(at)).map(|(_, placeholder)| *placeholder);
            template.0.extend(placeholder.map(Piece::Filled));
            template.push_text(rest);
        }
        template
    }

    /// The template of the text as it was parsed; `None` if it has no placeholder. The error says what is none.
    pub(super) fn url(&self, url: &Url) -> Result<Option<UrlTemplate>, &'static str> {
        let segments: Vec<_> = url.path().split('/').skip(1).map(|segment| self.template(segment)).collect();
        let query = url.query().map(|query| self.template(query));
        if segments.iter().chain(&query).any(Template::opens_escape) {
            return Err("a percent sign before a placeholder, which would make an escape of what the recipient says");
        }
        let any = segments.iter().chain(&query).any(Template::has_placeholders);
        Ok(any.then(|| UrlTemplate { origin: url[..Position::BeforePath].to_owned(), segments, query }))
    }

    /// As it was written.
    pub(super) fn unmarked(&self, text: &str) -> String {
        let mut out = String::new();
        for piece in &self.template(text).0 {
            match piece {
                Piece::Text(text) => out.push_str(text.expose()),
                Piece::Filled(placeholder) => _ = write!(out, "{{{}}}", placeholder.name()),
            }
        }
        out
    }

    /// With what stands for the placeholders of a recipient.
    pub(super) fn filled(&self, text: &str, recipient: &str, hostname: &str) -> String {
        let (mut out, parts) = (String::new(), Parts::of(recipient, hostname));
        for piece in &self.template(text).0 {
            match piece {
                Piece::Text(text) => out.push_str(text.expose()),
                Piece::Filled(placeholder) => percent_encode(&mut out, parts.get(*placeholder)),
            }
        }
        out
    }

    /// Whether a text is one placeholder and nothing else.
    pub(super) fn is_placeholder(&self, text: &str) -> bool {
        text.strip_prefix(self.mark.as_str()).is_some_and(|kind| kind.len() == 1)
    }
}

impl UrlTemplate {
    /// `None`: the recipient would make a segment of the path empty, a step up or two of them.
    fn fill(&self, parts: &Parts<'_>) -> Option<Url> {
        let mut text = self.origin.clone();
        for segment in &self.segments {
            text.push('/');
            let from = text.len();
            segment.fill(parts, &mut text, |out, value| (!value.contains(['/', '\\'])).then(|| percent_encode(out, value)))?;
            if segment.has_placeholders() && is_step(text.get(from..)?) {
                return None;
            }
        }
        if let Some(query) = &self.query {
            text.push('?');
            query.fill(parts, &mut text, |out, value| {
                percent_encode(out, value);
                Some(())
            })?;
        }
        // What was escaped is not changed by a parser.
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }
}

impl Templates {
    /// Where mail for this recipient goes. `None`: nowhere.
    pub(super) fn fill(&self, target: &Target, recipient: &str, hostname: &str) -> Option<Target> {
        let parts = Parts::of(recipient, hostname);
        let url = match &self.url {
            Some(template) => template.fill(&parts)?,
            None => target.url.clone(),
        };
        let mut headers = Vec::new();
        for ((name, _), template) in target.headers.iter().zip(&self.headers) {
            let mut value = String::new();
            template.fill(&parts, &mut value, |out, part| {
                out.push_str(&mailbox::in_header(part));
                Some(())
            })?;
            headers.push((name.clone(), Secret::new(value.trim())));
        }
        Some(Target { url, headers })
    }
}

/// All but the unreserved (RFC 3986 section 2.3).
fn percent_encode(out: &mut String, text: &str) {
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            _ = write!(out, "%{octet:02X}");
        }
    }
}

/// Nothing, or what `..` means, however its dots are written.
fn is_step(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "" | "." | "..")
}

/// Recipients that a glob takes, for `check` to show: with a tag where it has room for one, then without.
pub(super) fn examples(glob: &str) -> Vec<String> {
    let filled = |text: &str, by: &str| text.replacen('*', by, 1).replace('*', "tag");
    if let Some((local, domain)) = glob.rsplit_once('@') {
        let domain = if domain == "*" { "example.com".to_owned() } else { domain.replace('*', "some") };
        let by: &[&str] = match local {
            _ if !local.contains('*') => &[""],
            "*" => &["user+tag", "user"],
            _ => &["tag", "user+tag"],
        };
        return by.iter().map(|by| format!("{}@{domain}", filled(local, by))).collect();
    }
    // One of the stars stands for the sign as well.
    let mut examples = Vec::new();
    for local in ["user+tag", "user"] {
        if glob == "*" {
            examples.push(format!("{local}@example.com"));
        } else if let Some(before) = glob.strip_suffix('*') {
            let local = if before.is_empty() || before.starts_with('*') { local } else { local.trim_start_matches("user") };
            examples.push(format!("{}{local}@example.com", before.replace('*', "")));
        } else if let Some((before, domain)) = glob.split_once('*') {
            let local = if before.is_empty() { local } else { local.trim_start_matches("user") };
            examples.push(format!("{before}{local}@some{}", domain.replace('*', "some")));
        }
    }
    // Nobody else is without a domain.
    if glob.eq_ignore_ascii_case("postmaster") {
        examples.push(glob.to_owned());
    }
    examples
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(url: &str) -> UrlTemplate {
        let start = url.find("://").unwrap() + 3;
        let path = url.bytes().skip(start).position(|octet| octet == b'/' || octet == b'?').unwrap();
        let (before, behind) = url.split_at(start + path);
        let marked = Marked::of(before, behind).unwrap();
        marked.url(&Url::parse(&marked.text).unwrap()).unwrap().unwrap()
    }

    fn fill(url: &str, recipient: &str) -> Option<String> {
        template(url).fill(&Parts::of(recipient, "mx.example")).map(Into::into)
    }

    #[test]
    fn parts_of_recipients() {
        for (recipient, expected) in [
            ("Ann+a+b@Example.COM", ["Ann+a+b@Example.COM", "Ann", "a+b", "example.com"]),
            ("ann@bücher.example", ["ann@bücher.example", "ann", "", "xn--bcher-kva.example"]),
            ("\"a b+c\"@x.example", ["\"a b+c\"@x.example", "a b", "c", "x.example"]),
            ("\"a\\\"@b\"@[192.0.2.1]", ["\"a\\\"@b\"@[192.0.2.1]", "a\"@b", "", "[192.0.2.1]"]),
            ("postmaster", ["postmaster", "postmaster", "", "mx.example"]),
        ] {
            assert_eq!(NAMES.map(|(_, placeholder)| Parts::of(recipient, "MX.example").get(placeholder).to_owned()), expected);
        }
    }

    #[test]
    fn urls() {
        for (url, recipient, expected) in [
            (
                "https://h.example/in/{domain}/{local}?t={tag}&r={recipient}",
                "Ann+1@X.example",
                "https://h.example/in/x.example/Ann?t=1&r=Ann%2B1%40X.example",
            ),
            ("https://h.example/{{x}}/{local}?{{", "a@b", "https://h.example/%7Bx%7D/a?%7B"),
            ("https://h.example?{domain}", "a@b", "https://h.example/?b"),
            ("http://h.example:8080/a-{tag}-b", "x@y", "http://h.example:8080/a--b"),
            ("http://h.example/%7Ba/{local}", "é%2f@y", "http://h.example/%7Ba/%C3%A9%252f"),
            ("http://h.example/{local}", "zq0q1@b", "http://h.example/zq0q1"),
            ("http://h.example/zq0q{local}", "a@b", "http://h.example/zq0qa"),
            ("http://h.example/{domain}", "postmaster", "http://h.example/mx.example"),
            ("http://h.example/%25{local}/%2f{local}?x%25%41{tag}", "2f+2f@b", "http://h.example/%252f/%2f2f?x%25%412f"),
            ("http://h.example/?{local}", "a/../\\?&#b@b", "http://h.example/?a%2F..%2F%5C%3F%26%23b"),
        ] {
            assert_eq!(fill(url, recipient).as_deref(), Some(expected), "{url}");
        }
        for (url, recipient) in [
            ("http://h/{tag}", "a@b"),
            ("http://h/{local}/x", "..@b"),
            ("http://h/{local}/x", ".@b"),
            ("http://h/.{local}", ".@b"),
            ("http://h/%2e{local}", ".@b"),
            ("http://h/{local}%2E", ".@b"),
            ("http://h/{local}{tag}", ".+.@b"),
            ("http://h/{local}", "a/b@b"),
            ("http://h/{local}", "a\\b@b"),
            ("http://h/x{tag}", "a+/@b"),
        ] {
            assert_eq!(fill(url, recipient), None, "{url} {recipient}");
        }
    }

    #[test]
    fn what_is_no_template() {
        for (text, what) in [
            ("{", "a brace stands alone"),
            ("a}b", "a brace stands alone"),
            ("{local", "a brace stands alone"),
            ("{{local}", "a brace stands alone"),
            ("{user}", "{user} is no placeholder"),
            ("{}", "{} is no placeholder"),
            ("{Local}", "{Local} is no placeholder"),
            ("{ local }", "{ local } is no placeholder"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), what, "{text}");
        }
        assert_eq!(Template::parse("{{local}}{{").unwrap().literal(), "{local}{");
        assert!(Marked::of("https://{domain}.example", "/").is_err());
        assert!(Marked::of("https://user:p{w@h.example", "/{local}").is_ok());
    }

    #[test]
    fn examples_are_recipients_of_their_globs() {
        for (glob, expected) in [
            ("*", &["user+tag@example.com", "user@example.com"][..]),
            ("*@x.example", &["user+tag@x.example", "user@x.example"]),
            ("support+*@x.example", &["support+tag@x.example", "support+user+tag@x.example"]),
            ("*-in@x.example", &["tag-in@x.example", "user+tag-in@x.example"]),
            ("a@b", &["a@b"]),
            ("*@*", &["user+tag@example.com", "user@example.com"]),
            ("*@*.x.example", &["user+tag@some.x.example", "user@some.x.example"]),
            ("*x.example", &["user+tag@somex.example", "user@somex.example"]),
            ("post*", &["post+tag@example.com", "post@example.com"]),
            ("a*b.example", &["a+tag@someb.example", "a@someb.example"]),
            ("**", &["user+tag@example.com", "user@example.com"]),
            ("postmaster", &["postmaster"]),
            ("nobody", &[]),
        ] {
            assert_eq!(examples(glob), expected);
        }
    }

    #[test]
    fn no_recipient_completes_an_escape() {
        for behind in [
            "/%{local}",
            "/%2{local}/x",
            "/a%F{tag}",
            "/x?%{recipient}",
            "/x?a=%a{domain}",
            "/%\t{local}",
            "/%2\n{local}",
            "/{tag}%{local}",
            "/%%{local}",
        ] {
            let marked = Marked::of("http://h", behind).unwrap();
            assert!(marked.url(&Url::parse(&marked.text).unwrap()).is_err(), "{behind}");
        }
    }

    proptest! {
        #[test]
        fn nothing_leads_elsewhere(recipient in any::<String>(), start in "[a-z.%]{0,3}", end in "[a-z.%]{0,3}", n in 0_usize..4) {
            let name = NAMES[n].0;
            let url = format!("https://h.example:444/a/{start}{{{name}}}{end}/b?c={{{name}}}&d=e");
            let (marked, parts) = (Marked::of("https://h.example:444", url.strip_prefix("https://h.example:444").unwrap()).unwrap(), Parts::of(&recipient, "mx.example"));
            let written = Url::parse(&marked.text).unwrap();
            let Ok(template) = marked.url(&written) else {
                prop_assert!(start.bytes().rev().take(2).any(|octet| octet == b'%'), "{}", start);
                return Ok(());
            };
            let template = template.unwrap();
            if let Some(filled) = template.fill(&parts) {
                prop_assert_eq!(filled.origin(), written.origin());
                let segments: Vec<_> = filled.path().split('/').collect();
                prop_assert_eq!((segments.len(), segments[1], segments[3]), (4, "a", "b"));
                prop_assert!(!is_step(segments[2]));
                prop_assert!(filled.fragment().is_none() && filled.username().is_empty());
                let pairs: Vec<_> = filled.query_pairs().collect();
                prop_assert_eq!(pairs.len(), 2);
                prop_assert_eq!(&*pairs[0].1, parts.get(NAMES[n].1));
                prop_assert!(filled.as_str().bytes().all(|octet| octet.is_ascii_graphic()));
            }
        }

        #[test]
        fn no_value_ends_its_line(recipient in any::<String>(), before in "[ -z]{0,5}") {
            let templates = Templates { url: None, headers: vec![Template::parse(&format!("{before}{{recipient}}{{local}}{{tag}}{{domain}}")).unwrap()] };
            let target = Target { url: Url::parse("http://h/").unwrap(), headers: vec![("X".to_owned(), Secret::default())] };
            let filled = templates.fill(&target, &recipient, "mx.example").unwrap();
            prop_assert!(filled.headers[0].1.expose().bytes().all(|octet| (b' '..=b'~').contains(&octet)));
        }
    }
}
