//! As much HTTP/1.1 as the tests' client and endpoint share: a head, and a body of known length.

use std::io::{self, BufRead, Read};

/// Header fields in their order, names as sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Start line and fields; `None` where the peer closed before the first octet.
pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Option<(String, Fields)>> {
    let Some(start) = read_line(from)? else { return Ok(None) };
    let mut fields = Fields::default();
    loop {
        let line = read_line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some((start, fields)));
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        fields.0.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// The body that the fields announce; to the end of the connection if they say nothing and `to_end`.
pub(crate) fn read_body(from: &mut impl BufRead, fields: &Fields, to_end: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if fields.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = u64::from_str_radix(line.split(';').next().unwrap().trim(), 16).map_err(io::Error::other)?;
            from.take(size).read_to_end(&mut body)?;
            read_line(from)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match fields.get("content-length") {
        Some(length) => {
            let length = length.parse().map_err(io::Error::other)?;
            body.reserve(usize::try_from(length).unwrap());
            if from.take(length).read_to_end(&mut body)? as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        None if to_end => drop(from.read_to_end(&mut body)?),
        None => {}
    }
    Ok(body)
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    // Latin-1, so that no octet is lost.
    Ok(Some(line.into_iter().map(char::from).collect()))
}
