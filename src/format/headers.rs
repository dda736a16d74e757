//! A message's header fields by their normalised names, each with all its values in message order.
//!
//! Linear in the fields and a few machine words for each, however many there are. Logs nothing, cannot fail.

use crate::message::field::fields;
use crate::message::{address_field, encoded_word};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// Octets held for each field, about.
pub(super) const HELD_PER_FIELD: usize = size_of::<Entry<'_>>() + 2 * size_of::<(Name<'_>, u32)>();

/// A name for which case and the choice of `-` or `_` make no difference.
#[derive(Clone, Copy)]
pub(super) struct Name<'a>(&'a [u8]);

struct Entry<'a> {
    name: Name<'a>,
    body: &'a [u8],
    /// It is the first of its name.
    first: bool,
    /// The next of its name.
    next: Option<u32>,
}

pub(super) struct Headers<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> Headers<'a> {
    pub(super) fn new(header: &'a [u8]) -> Self {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut last: HashMap<Name<'a>, u32> = HashMap::new();
        for field in fields(header) {
            let Ok(here) = u32::try_from(entries.len()) else { break };
            let name = Name(field.name);
            let before = last.insert(name, here);
            if let Some(before) = before.and_then(|before| entries.get_mut(before as usize)) {
                before.next = Some(here);
            }
            entries.push(Entry { name, body: field.body, first: before.is_none(), next: None });
        }
        Self { entries }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == Name(name.as_bytes()))
    }

    /// Each name once, in the order of their first fields, with its values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Name<'a>, Values<'_, 'a>)> {
        self.entries.iter().filter(|entry| entry.first).map(|entry| (entry.name, Values { headers: self, next: Some(entry) }))
    }
}

/// The values of one name, unfolded and decoded one by one.
pub(super) struct Values<'h, 'a> {
    headers: &'h Headers<'a>,
    next: Option<&'h Entry<'a>>,
}

impl Values<'_, '_> {
    /// There is more than one.
    pub(super) fn repeated(&self) -> bool {
        self.next.is_some_and(|entry| entry.next.is_some())
    }
}

impl Iterator for Values<'_, '_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let entry = self.next?;
        self.next = entry.next.and_then(|next| self.headers.entries.get(next as usize));
        let decode = if address_field::is_named(entry.name.0) { encoded_word::decode_addresses } else { encoded_word::decode };
        Some(decode(entry.body))
    }
}

impl Name<'_> {
    /// Lower case, with `_` for `-`.
    pub(super) fn octets(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|octet| if *octet == b'-' { b'_' } else { octet.to_ascii_lowercase() })
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.octets().eq(other.octets())
    }
}

impl Eq for Name<'_> {}

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.octets().for_each(|octet| state.write_u8(octet));
        state.write_u8(0xff);
    }
}
