//! The head of a response (RFC 9112 sections 2.2 to 6.3), read as it asks of a user agent: what one field has wrong is that field's
//! trouble, and the status line decides. Pure.

use httparse::{Header, ParserConfig};
use memchr::{memchr, memchr_iter};
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// Octets of a head; further ones make it none.
pub(super) const HEAD_MAX: usize = 64 * 1024;
/// Fields of most responses; those of others go to the heap.
const FIELDS: usize = 32;
/// The shortest field is `a:` and a line feed.
const FIELD_MIN: usize = 3;
const START: &[u8] = b"HTTP/1.";
/// `HTTP/1.1 413`: enough of a response to know what it says.
const STATUS_END: usize = 12;

/// What is of interest in a head.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    pub(super) retry_after: Option<String>,
    pub(super) location: Option<String>,
    /// All fields of it as one.
    pub(super) cache_control: Option<String>,
    /// It asks who we are.
    pub(super) challenges: bool,
    /// The body has been through a coding that is not undone here.
    pub(super) is_coded: bool,
    pub(super) framing: Framing,
    /// The connection may be used again when the body has ended.
    pub(super) keeps_alive: bool,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// It ends with its connection.
    Close,
}

impl Head {
    /// Another response follows. (Nobody asked to switch protocols: a 101 is the end.)
    pub(super) fn is_interim(&self) -> bool {
        is_interim(self.status)
    }
}

fn is_interim(status: u16) -> bool {
    (100..=199).contains(&status) && status != 101
}

/// A head at the start of `input`, and its octets. `searched` is how much of it has been looked at before.
///
/// # Errors
/// This is not, and will not become, the head of a response.
pub(super) fn read(input: &[u8], searched: &mut usize) -> Result<Option<(Head, usize)>, String> {
    let Some(end) = end(input, searched)? else {
        return if input.len() < HEAD_MAX { Ok(None) } else { Err(format!("the response's header is longer than {HEAD_MAX} octets")) };
    };
    let head = lenient(input.get(..end).unwrap_or_default()).map_err(|error| format!("malformed answer: {error}"))?;
    Ok(Some((head, end)))
}

fn lenient(octets: &[u8]) -> Result<Head, httparse::Error> {
    if is_doubled(octets) {
        return parse(&repaired(&single(octets)));
    }
    parse(octets).or_else(|_| parse(&repaired(octets)))
}

/// Who writes in a text mode that makes CRLF of each LF ends the first line, and then all, with CR CR LF.
fn is_doubled(octets: &[u8]) -> bool {
    let begun = octets.get(empty_lines(octets)..).unwrap_or_default();
    memchr(b'\n', begun).and_then(|at| begun.get(..at)).is_some_and(|line| line.ends_with(b"\r\r"))
}

fn single(octets: &[u8]) -> Vec<u8> {
    let lines = octets.split_inclusive(|octet| *octet == b'\n');
    lines.flat_map(|line| line.trim_ascii_end().iter().chain(b"\r\n")).copied().collect()
}

/// What an endpoint says while it is still being sent to.
pub(super) enum Early {
    /// Nothing that tells.
    Nothing,
    /// It will have the rest of the request.
    GoesOn,
    /// It has answered, and wants no more (RFC 9112 section 9.5).
    NoMore,
}

/// Looks into what has come before the request is out; what is only interim is dropped.
pub(super) fn early(input: &mut Vec<u8>) -> Early {
    loop {
        let start = empty_lines(input);
        let Some(line) = input.get(start..start + STATUS_END) else { return Early::Nothing };
        let Some(status) = line.starts_with(START).then(|| line.get(STATUS_END - 3..)).flatten().and_then(number) else {
            return Early::GoesOn;
        };
        if !is_interim(status) {
            return if (300..=599).contains(&status) { Early::NoMore } else { Early::GoesOn };
        }
        match end(input, &mut 0) {
            Ok(Some(end)) => drop(input.drain(..end)),
            Ok(None) if input.len() < HEAD_MAX => return Early::Nothing,
            Ok(None) | Err(_) => return Early::GoesOn,
        }
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |number, digit| Some(number * 10 + u16::from(digit.is_ascii_digit().then_some(digit - b'0')?)))
}

/// Octets of empty lines in front of a status line.
fn empty_lines(input: &[u8]) -> usize {
    input.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count()
}

/// The end of the head: behind the first empty line that follows another line.
fn end(input: &[u8], searched: &mut usize) -> Result<Option<usize>, String> {
    let start = empty_lines(input);
    let begun = input.get(start..).unwrap_or_default();
    if !begun.iter().zip(START).all(|(one, other)| one == other) {
        return Err("not an HTTP/1 answer".to_owned());
    }
    let doubled = is_doubled(begun);
    // The last line end that was seen may be the one in front of the empty line.
    let from = start.max(searched.saturating_sub(3));
    *searched = input.len();
    let found =
        memchr_iter(b'\n', input.get(from..).unwrap_or_default()).map(|at| from + at + 1).find_map(|next| match input.get(next..)? {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            [b'\r', b'\r', b'\n', ..] if doubled => Some(next + 3),
            _ => None,
        });
    Ok(found)
}

/// What no line may have in it stands for a space (RFC 9112 section 2.2, RFC 9110 section 5.5); a later minor version is the one that is
/// known (RFC 9110 section 2.5), and a tab in the status line its space (RFC 9112 section 4).
fn repaired(octets: &[u8]) -> Vec<u8> {
    let mut repaired = octets.to_vec();
    if let Some(minor @ b'2'..=b'9') = repaired.get_mut(empty_lines(octets) + START.len()) {
        *minor = b'1';
    }
    let mut in_status_line = true;
    for (at, octet) in repaired.iter_mut().enumerate().skip(empty_lines(octets)) {
        let ends_line = matches!(octet, b'\n') || (*octet == b'\r' && octets.get(at + 1) == Some(&b'\n'));
        if !ends_line && (*octet != b'\t' || in_status_line) && octet.is_ascii_control() {
            *octet = b' ';
        }
        in_status_line &= !ends_line;
    }
    repaired
}

fn parse(octets: &[u8]) -> Result<Head, httparse::Error> {
    let mut fields = [MaybeUninit::uninit(); FIELDS];
    match parse_into(octets, &mut fields) {
        Err(httparse::Error::TooManyHeaders) => parse_into(octets, &mut vec![MaybeUninit::uninit(); octets.len() / FIELD_MIN + 1]),
        parsed => parsed,
    }
}

fn parse_into<'b>(octets: &'b [u8], fields: &mut [MaybeUninit<Header<'b>>]) -> Result<Head, httparse::Error> {
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true);
    let mut response = httparse::Response::new(&mut []);
    let parsed = config.parse_response_with_uninit_headers(&mut response, octets, fields)?;
    match (parsed, response.code, response.version) {
        (httparse::Status::Complete(_), Some(status @ 100..), Some(version)) => Ok(of_fields(status, version, response.headers)),
        _ => Err(httparse::Error::Status),
    }
}

fn of_fields(status: u16, version: u8, fields: &[Header<'_>]) -> Head {
    let first = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| text(field.value));
    // Elements of a list, which may be in several fields.
    let all = |name: &'static str| {
        let of_name = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        of_name.flat_map(|field| field.value.split(|octet| *octet == b',')).map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    };
    // An old name for no coding at all.
    let coded = |name| all(name).filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    let is_coded = |coding: &[u8]| !coding.eq_ignore_ascii_case(b"chunked");
    let transfer = coded("transfer-encoding").next_back();
    let length = content_length(all("content-length"));
    let has = |option: &[u8]| all("connection").any(|token| token.eq_ignore_ascii_case(option));
    let keeps_alive = if version == 0 { has(b"keep-alive") } else { !has(b"close") };
    let framing = match (status, transfer, length) {
        (100..=199 | 204 | 304, _, _) => Framing::Length(0),
        (_, Some(last), _) if !is_coded(last) => Framing::Chunked,
        (_, Some(_), _) | (_, None, Length::None | Length::Invalid) => Framing::Close,
        (_, None, Length::Octets(octets)) => Framing::Length(octets),
    };
    // Two lengths, or one that says nothing, are no base for what comes behind (RFC 9112 section 6.1).
    let doubtful = length == Length::Invalid || transfer.is_some() && (length != Length::None || version == 0);
    Head {
        status,
        content_type: first("content-type").map(Cow::into_owned),
        retry_after: first("retry-after").map(Cow::into_owned),
        // An empty one names no place.
        location: first("location").filter(|location| !location.is_empty()).map(Cow::into_owned),
        cache_control: joined(all("cache-control")),
        challenges: first("www-authenticate").is_some() || first("proxy-authenticate").is_some(),
        is_coded: coded("content-encoding").next().is_some() || coded("transfer-encoding").any(is_coded),
        framing,
        keeps_alive: keeps_alive && !doubtful && status != 101,
    }
}

fn joined<'a>(elements: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let elements: Vec<_> = elements.map(String::from_utf8_lossy).collect();
    (!elements.is_empty()).then(|| elements.join(","))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    None,
    Octets(u64),
    Invalid,
}

/// The same length said twice is one (RFC 9110 section 8.6).
fn content_length<'a>(elements: impl Iterator<Item = &'a [u8]>) -> Length {
    let mut length = Length::None;
    for element in elements {
        let digits = std::str::from_utf8(element).ok().filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()));
        let Some(octets) = digits.and_then(|digits| digits.parse().ok()) else { return Length::Invalid };
        match length {
            Length::None => length = Length::Octets(octets),
            Length::Octets(before) if before == octets => {}
            Length::Octets(_) | Length::Invalid => return Length::Invalid,
        }
    }
    length
}

/// A value with its folds as one space each.
fn text(value: &[u8]) -> Cow<'_, str> {
    let value = String::from_utf8_lossy(value);
    if !value.contains('\n') {
        return value;
    }
    Cow::Owned(
        value.split('\n').map(|line| line.trim_matches([' ', '\t', '\r'])).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::{Early, Framing, HEAD_MAX, Head, early, read};
    use proptest::prelude::*;

    fn head(octets: &[u8]) -> Head {
        let (head, used) = read(octets, &mut 0).unwrap().unwrap();
        assert_eq!(used, octets.len());
        head
    }

    #[test]
    fn framings_and_whether_the_connection_stays() {
        let table: &[(&str, Framing, bool)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200\nContent-Length: 5\n\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length:5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Framing::Close, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Framing::Chunked, false),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n", Framing::Chunked, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, true),
        ];
        for (octets, framing, keeps_alive) in table {
            let head = head(octets.as_bytes());
            assert_eq!((head.framing, head.keeps_alive), (*framing, *keeps_alive), "{octets:?}");
        }
    }

    #[test]
    fn what_one_field_has_wrong_is_its_own_trouble() {
        for odd in [
            "X: a\r\n b\r\n\tc\r\n",
            "X : y\r\n",
            "no colon at all\r\n",
            ": no name\r\n",
            "na(me: x\r\n",
            "X: \0\u{1}\u{7f}\r\n",
            "X: a\rb\r\n",
            "\r\r\n",
            " before the first: 1\r\n",
            "\u{e9}: x\r\n",
            "X: \u{e9}\r\n",
        ] {
            let head =
                head(format!("\r\nHTTP/1.1  422 O\0 d \u{e9}\r\n{odd}Content-Type: text/plain\r\nContent-Length: 3\r\n\r\n").as_bytes());
            assert_eq!((head.status, head.framing), (422, Framing::Length(3)), "{odd:?}");
            assert_eq!(head.content_type.as_deref(), Some("text/plain"), "{odd:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}Location: /x\r\n \r\n y\r\n\r\n", "a:\n".repeat(20_000));
        assert_eq!(head(many.as_bytes()).location.as_deref(), Some("/x y"));
    }

    #[test]
    fn what_is_none() {
        for octets in [
            "220 mx.example ESMTP\r\n",
            "SSH-2.0-x\r\n",
            "\0\u{1}",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.10 200 OK\r\n\r\n",
        ] {
            assert!(read(octets.as_bytes(), &mut 0).is_err(), "{octets:?}");
        }
        for octets in ["", "\r\n", "HT", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n\r"] {
            assert!(matches!(read(octets.as_bytes(), &mut 0), Ok(None)), "{octets:?}");
        }
        assert!(read(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &vec![b'x'; HEAD_MAX]].concat(), &mut 0).is_err());
    }

    #[test]
    fn line_ends_that_were_doubled() {
        let octets = "HTTP/1.1 422 No\r\r\nContent-Type: text/plain\r\r\nContent-Length: 2\r\r\n\r\r\n";
        for cut in 0..octets.len() {
            let mut searched = 0;
            assert!(matches!(read(&octets.as_bytes()[..cut], &mut searched), Ok(None)), "{cut}");
            let (head, used) = read(format!("{octets}no").as_bytes(), &mut searched).unwrap().unwrap();
            assert_eq!((head.status, head.framing, used), (422, Framing::Length(2), octets.len()));
            assert_eq!(head.content_type.as_deref(), Some("text/plain"));
        }
    }

    #[test]
    fn an_early_answer_behind_interim_ones() {
        let heard = |octets: &str| {
            let mut input = octets.as_bytes().to_vec();
            let early = match early(&mut input) {
                Early::Nothing => "nothing",
                Early::GoesOn => "goes on",
                Early::NoMore => "no more",
            };
            (early, String::from_utf8(input).unwrap())
        };
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(heard(&format!("{interim}HTTP/1.1 413 T")), ("no more", "HTTP/1.1 413 T".to_owned()));
        assert_eq!(heard(&format!("{interim}HTTP/1.1 200 O")).0, "goes on");
        assert_eq!(heard(interim), ("nothing", String::new()));
        assert_eq!(heard("HTTP/1.1 100 Continue\r\nX: 1").0, "nothing");
        assert_eq!(heard("HTTP/1.1 41").0, "nothing");
        assert_eq!(heard("220 mx.example ESMTP").0, "goes on");
    }

    proptest! {
        /// However it was cut: the same head, and nothing panics.
        #[test]
        fn any_cut_gives_the_same_head(octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()], 0..60), cut in 0..80_usize) {
            let octets = [b"HTTP/1.1 200 OK\r\n".as_slice(), &octets].concat();
            let whole = read(&octets, &mut 0).map(|read| read.map(|(head, used)| (head.status, head.framing, used)));
            let mut searched = 0;
            let mut parts = Ok(None);
            for to in [cut.min(octets.len()), octets.len()] {
                if matches!(parts, Ok(None)) {
                    parts = read(&octets[..to], &mut searched).map(|read| read.map(|(head, used)| (head.status, head.framing, used)));
                }
            }
            prop_assert_eq!(whole, parts);
        }
    }
}
