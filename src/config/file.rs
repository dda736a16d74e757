//! The configuration file as written: a tree whose every value knows its line, read key by key.
//!
//! A section names its keys when it is opened, so a key nobody knows is found first, with the nearest known one.
//! Each value that is read is noted with its origin for `check`. A text may stand in another file, named by the
//! key's name plus `_file`. Nothing is logged; every failure is a [`ConfigError`].

use super::effective::{Block, Origin, Value};
use super::error::{ConfigError, Place};
use super::limits::Bound;
use super::named::NamedFiles;
use super::unit;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text of a file and what to call it.
pub(super) struct Source {
    pub(super) name: String,
    text: String,
    /// Where each line starts: a file may have a million, and each value wants to know its own.
    lines: Vec<usize>,
    /// The files that its keys name, and what they said the last time.
    named: RefCell<NamedFiles>,
    named_before: NamedFiles,
}

impl Source {
    pub(super) fn new(name: String, text: String, named_before: NamedFiles) -> Self {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { name, text, lines, named: RefCell::default(), named_before }
    }

    /// The text as it was written, and what was read beside it.
    pub(super) fn into_parts(self) -> (String, NamedFiles) {
        (self.text, self.named.into_inner())
    }

    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'_>>, ConfigError> {
        DeTable::parse(&self.text).map_err(|error| {
            let place = Place { file: self.name.clone(), line: error.span().map(|span| self.line(span.start)), key: String::new() };
            let what = error.message().lines().collect::<Vec<_>>().join(", ");
            let named = error.span().and_then(|span| self.text.get(span)).unwrap_or_default();
            if what == "duplicate key" && named.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_') {
                return place.invalid(format!("{named:?} stands a second time"), "put both into one");
            }
            place.invalid(format!("not TOML: {what}"), "correct the line (https://toml.io shows the form)")
        })
    }
}

/// The names of a section's keys, by what `_file` may follow.
pub(super) struct Keys {
    /// Texts, sizes, durations and lists of texts.
    pub(super) texts: &'static [&'static str],
    pub(super) others: &'static [&'static str],
}

impl Keys {
    fn knows(&self, key: &str) -> bool {
        self.all().any(|known| known == key) || key.strip_suffix("_file").is_some_and(|text| self.texts.contains(&text))
    }

    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.texts.iter().chain(self.others).copied()
    }
}

/// A value and where it stands, for the error that may follow.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A list, each item with the line of its own.
pub(super) type FoundList = Found<Vec<Found<String>>>;

impl<T> Found<T> {
    pub(super) fn invalid(&self, what: impl Into<String>, mend: impl Into<String>) -> ConfigError {
        self.place.invalid(what, mend)
    }
}

/// One table of the file, present or not.
pub(super) struct Section<'d> {
    source: &'d Source,
    /// Dotted, before a key; empty at the root.
    path: String,
    /// As it stands in a file: `[smtp.tls]`.
    header: String,
    line: Option<usize>,
    table: Option<&'d DeTable<'d>>,
    values: Vec<Value>,
    /// Defaults are not noted.
    brief: bool,
}

impl<'d> Section<'d> {
    pub(super) fn root(source: &'d Source, table: &'d DeTable<'d>, keys: &Keys) -> Result<Self, ConfigError> {
        let section =
            Self { source, path: String::new(), header: String::new(), line: None, table: Some(table), values: Vec::new(), brief: false };
        section.refuse_unknown(keys)?;
        Ok(section)
    }

    /// The table under a key; an absent one has no values.
    pub(super) fn table(&self, key: &str, keys: &Keys) -> Result<Self, ConfigError> {
        let path = self.dotted(key);
        // A table within an element of an array of tables belongs to the last element.
        let header = format!("[{path}]");
        let Some((value, line)) = self.get(key) else {
            return Ok(Self { source: self.source, path, header, line: None, table: None, values: Vec::new(), brief: false });
        };
        let DeValue::Table(table) = value else {
            return Err(self
                .place(key, Some(line))
                .invalid(format!("is {}, not a table", article(value)), format!("write a table [{path}]")));
        };
        let section = Self { source: self.source, path, header, line: Some(line), table: Some(table), values: Vec::new(), brief: false };
        section.refuse_unknown(keys)?;
        Ok(section)
    }

    /// The tables of an array of tables, in their order.
    pub(super) fn tables(&self, key: &str, keys: &Keys) -> Result<Vec<Self>, ConfigError> {
        let path = self.dotted(key);
        let Some((value, line)) = self.get(key) else { return Ok(Vec::new()) };
        let wrong = |line| self.place(key, Some(line)).invalid("is no array of tables", format!("write each as [[{path}]]"));
        let DeValue::Array(array) = value else { return Err(wrong(line)) };
        let mut sections = Vec::new();
        for element in array.iter() {
            let line = self.source.line(element.span().start);
            let DeValue::Table(table) = element.get_ref() else { return Err(wrong(line)) };
            let section = Self {
                source: self.source,
                path: path.clone(),
                header: format!("[[{path}]]"),
                line: Some(line),
                table: Some(table),
                values: Vec::new(),
                brief: false,
            };
            section.refuse_unknown(keys)?;
            sections.push(section);
        }
        Ok(sections)
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// `check` shows only what is written: of one section among very many.
    pub(super) fn be_brief(&mut self) {
        self.brief = true;
    }

    /// The values that were read, for `check`.
    pub(super) fn into_block(self) -> Block {
        Block { header: self.header, start: self.line, values: self.values }
    }

    // --- texts

    /// A text; `None` where it is absent.
    pub(super) fn text_if_present(&mut self, key: &'static str) -> Result<Option<Found<String>>, ConfigError> {
        let Some((found, origin)) = self.read_text(key)? else { return Ok(None) };
        self.note(key, quoted(&found.value), origin);
        Ok(Some(found))
    }

    /// A text that `check` does not show.
    pub(super) fn secret(&mut self, key: &'static str) -> Result<Option<Found<String>>, ConfigError> {
        let Some((found, origin)) = self.read_text(key)? else { return Ok(None) };
        let shown = if found.value.is_empty() { "\"\"" } else { "\"(secret)\"" };
        self.note(key, shown.to_owned(), origin);
        Ok(Some(found))
    }

    /// A text, or its default.
    pub(super) fn text(&mut self, key: &'static str, default: &str) -> Result<Found<String>, ConfigError> {
        if let Some(found) = self.text_if_present(key)? {
            return Ok(found);
        }
        self.note(key, quoted(default), Origin::Default);
        Ok(Found { value: default.to_owned(), place: self.place(key, None) })
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> Result<Found<String>, ConfigError> {
        self.text_if_present(key)?.ok_or_else(|| self.missing(key, example))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy + PartialEq>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> Result<T, ConfigError> {
        let default_word = words.iter().find(|(_, value)| *value == default).map_or("", |(word, _)| word);
        let found = self.text(key, default_word)?;
        match words.iter().find(|(word, _)| *word == found.value) {
            Some((_, value)) => Ok(*value),
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Err(unknown_word(&found.place, &found.value, &known))
            }
        }
    }

    pub(super) fn size(&mut self, key: &'static str, bound: Bound<u64>) -> Result<u64, ConfigError> {
        let found = self.text(key, &unit::show_size(bound.default))?;
        let Some(octets) = unit::parse_size(&found.value) else {
            return Err(found.invalid(format!("{:?} is no size", found.value), unit::SIZES));
        };
        within(&found.place, octets, bound, |value| format!("{:?}", unit::show_size(*value)))?;
        self.show(key, quoted(&unit::show_size(octets)));
        Ok(octets)
    }

    /// A size; an empty text is as good as none.
    pub(super) fn size_if_given(&mut self, key: &'static str, bound: Bound<u64>) -> Result<Option<u64>, ConfigError> {
        match self.read_text(key)? {
            None => Ok(None),
            Some((found, origin)) if found.value.is_empty() => {
                self.note(key, quoted(""), origin);
                Ok(None)
            }
            Some(_) => self.size(key, bound).map(Some),
        }
    }

    pub(super) fn duration(&mut self, key: &'static str, bound: Bound<Duration>) -> Result<Duration, ConfigError> {
        let found = self.text(key, &unit::show_duration(bound.default))?;
        let Some(duration) = unit::parse_duration(&found.value) else {
            return Err(found.invalid(format!("{:?} is no duration", found.value), unit::DURATIONS));
        };
        within(&found.place, duration, bound, |value| format!("{:?}", unit::show_duration(*value)))?;
        self.show(key, quoted(&unit::show_duration(duration)));
        Ok(duration)
    }

    // --- lists

    /// A list of texts, or its default; from a file, one a line.
    pub(super) fn texts(&mut self, key: &'static str, default: &[&str]) -> Result<FoundList, ConfigError> {
        let (found, origin) = self.read_texts(key, default)?;
        let shown: Vec<_> = found.value.iter().map(|item| quoted(&item.value)).collect();
        self.note(key, format!("[{}]", shown.join(", ")), origin);
        Ok(found)
    }

    /// A list of texts that `check` does not show.
    pub(super) fn secrets(&mut self, key: &'static str) -> Result<Vec<Found<String>>, ConfigError> {
        let (found, origin) = self.read_texts(key, &[])?;
        let shown: Vec<_> = found.value.iter().map(|_| "\"(secret)\"").collect();
        self.note(key, format!("[{}]", shown.join(", ")), origin);
        Ok(found.value)
    }

    /// A list of whole numbers within a range.
    pub(super) fn numbers(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
        default: &[u16],
    ) -> Result<Vec<u16>, ConfigError> {
        let mend = format!("write a list of numbers from {} to {}", range.start(), range.end());
        let (numbers, origin) = match self.get(key) {
            None => (default.to_vec(), Origin::Default),
            Some((DeValue::Array(array), line)) => {
                let mut numbers = Vec::new();
                for element in array.iter() {
                    let place = self.place(key, Some(self.source.line(element.span().start)));
                    let number = whole_number(element.get_ref()).filter(|number| range.contains(number));
                    let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
                        return Err(place.invalid(format!("{} is out of place here", shown(element.get_ref())), mend));
                    };
                    numbers.push(number);
                }
                (numbers, Origin::Line(line))
            }
            Some((value, line)) => return Err(self.place(key, Some(line)).invalid(format!("is {}", article(value)), mend)),
        };
        self.note(key, format!("{numbers:?}"), origin);
        Ok(numbers)
    }

    // --- numbers and flags

    /// A whole number in the type that the code counts with.
    pub(super) fn count<T: TryFrom<u64>>(&mut self, key: &'static str, bound: Bound<u64>) -> Result<T, ConfigError> {
        let (number, place, origin) = match self.get(key) {
            None => (bound.default, self.place(key, None), Origin::Default),
            Some((value, line)) => {
                let place = self.place(key, Some(line));
                let Some(number) = whole_number(value) else {
                    return Err(place.invalid(
                        format!("{} is no whole number", shown(value)),
                        format!("write a number from {} to {}, without quotes", bound.least, bound.most),
                    ));
                };
                (number, place, Origin::Line(line))
            }
        };
        within(&place, number, bound, ToString::to_string)?;
        self.note(key, number.to_string(), origin);
        T::try_from(number).map_err(|_| place.invalid(format!("{number} is too large for this machine"), "write a smaller number"))
    }

    /// A share above 0, up to 1.
    pub(super) fn share(&mut self, key: &'static str, default: f64) -> Result<f64, ConfigError> {
        let Some((value, line)) = self.get(key) else {
            self.note(key, default.to_string(), Origin::Default);
            return Ok(default);
        };
        let number = match value {
            DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
            // Only 1 can be meant; larger ones fail below.
            DeValue::Integer(_) => whole_number(value).map(|number| if number == 1 { 1.0 } else { f64::INFINITY }),
            DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        };
        let Some(share) = number.filter(|share| *share > 0.0 && *share <= 1.0) else {
            return Err(self
                .place(key, Some(line))
                .invalid(format!("{} is no share", shown(value)), "write a number above 0 and up to 1, as in 0.25"));
        };
        self.note(key, share.to_string(), Origin::Line(line));
        Ok(share)
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let (flag, origin) = match self.get(key) {
            None => (default, Origin::Default),
            Some((DeValue::Boolean(flag), line)) => (*flag, Origin::Line(line)),
            Some((value, line)) => {
                return Err(self.place(key, Some(line)).invalid(format!("{} is no truth value", shown(value)), "write true or false"));
            }
        };
        self.note(key, flag.to_string(), origin);
        Ok(flag)
    }

    /// Names and texts of a free table (HTTP headers); a name may have `_file` behind it.
    pub(super) fn free_texts(&mut self, key: &'static str) -> Result<Vec<(String, Found<String>)>, ConfigError> {
        let Some((value, line)) = self.get(key) else {
            self.note(key, "{}".to_owned(), Origin::Default);
            return Ok(Vec::new());
        };
        let DeValue::Table(table) = value else {
            let what = format!("is {}, not a table", article(value));
            return Err(self.place(key, Some(line)).invalid(what, format!("write {key} = {{ Name = \"value\" }}")));
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut texts = Vec::new();
        let mut shown = Vec::new();
        for (name, value) in entries {
            let line = self.source.line(name.span().start);
            let name: &str = name.get_ref();
            let mut place = self.place(key, Some(line));
            place.key = format!("{}.{name}", place.key);
            let text = as_text(value.get_ref(), &place)?;
            let (name, text) = match name.strip_suffix("_file") {
                Some(name) => (name, self.read_named(&place, Path::new(text))?),
                None => (name, text.to_owned()),
            };
            shown.push(format!("{name} = \"(secret)\""));
            texts.push((name.to_owned(), Found { value: text, place }));
        }
        let shown = if shown.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", shown.join(", ")) };
        self.note(key, shown, Origin::Line(line));
        Ok(texts)
    }

    // --- what all of them use

    /// Replaces what `check` shows of a value that has been read: the value the code computes with.
    pub(super) fn show(&mut self, key: &str, text: String) {
        if let Some(value) = self.values.iter_mut().rev().find(|value| value.key == key) {
            value.text = text;
        }
    }

    /// What a template becomes, for `check` to show behind it.
    pub(super) fn show_example(&mut self, key: &str, recipient: &str, text: &str) {
        if let Some(value) = self.values.iter_mut().rev().find(|value| value.key == key) {
            value.example = Some(format!("for {recipient}: {text}"));
        }
    }

    /// Where a value that was read stands, or else the table.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let line = self.values.iter().find(|value| value.key == key).and_then(|value| match &value.origin {
            Origin::Default => None,
            Origin::Line(line) | Origin::NamedFile { line, .. } => Some(*line),
        });
        self.place(key, line.or(self.line))
    }

    /// The file that a text was read from.
    pub(super) fn named_file(&self, key: &str) -> Option<PathBuf> {
        match &self.values.iter().rev().find(|value| value.key == key)?.origin {
            Origin::NamedFile { path, .. } => Some(path.clone()),
            Origin::Default | Origin::Line(_) => None,
        }
    }

    /// The error of a key that must be there.
    pub(super) fn missing(&self, key: &str, example: &str) -> ConfigError {
        self.place(key, self.line).invalid("is missing", format!("write {key} = {example}"))
    }

    pub(super) fn place(&self, key: &str, line: Option<usize>) -> Place {
        Place { file: self.source.name.clone(), line, key: self.dotted(key) }
    }

    pub(super) fn note(&mut self, key: &'static str, text: String, origin: Origin) {
        if self.brief && origin == Origin::Default {
            return;
        }
        self.values.push(Value { key, text, origin, example: None });
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &str) -> Option<(&'d DeValue<'d>, usize)> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value.get_ref(), self.source.line(name.span().start)))
    }

    fn read_text(&self, key: &str) -> Result<Option<(Found<String>, Origin)>, ConfigError> {
        let file_key = format!("{key}_file");
        match (self.get(key), self.get(&file_key)) {
            (None, None) => Ok(None),
            (Some(_), Some((_, line))) => Err(self.twice(key, &file_key, line)),
            (Some((value, line)), None) => {
                let place = self.place(key, Some(line));
                let value = as_text(value, &place)?.to_owned();
                Ok(Some((Found { value, place }, Origin::Line(line))))
            }
            (None, Some((value, line))) => {
                let place = self.place(&file_key, Some(line));
                let path = PathBuf::from(as_text(value, &place)?);
                let value = self.read_named(&place, &path)?;
                Ok(Some((Found { value, place }, Origin::NamedFile { line, path })))
            }
        }
    }

    fn read_texts(&self, key: &str, default: &[&str]) -> Result<(FoundList, Origin), ConfigError> {
        let file_key = format!("{key}_file");
        match (self.get(key), self.get(&file_key)) {
            (None, None) => {
                let place = self.place(key, self.line);
                let value = default.iter().map(|text| Found { value: (*text).to_owned(), place: place.clone() }).collect();
                Ok((Found { value, place }, Origin::Default))
            }
            (Some(_), Some((_, line))) => Err(self.twice(key, &file_key, line)),
            (Some((DeValue::Array(array), line)), None) => {
                let mut items = Vec::new();
                for element in array.iter() {
                    let place = self.place(key, Some(self.source.line(element.span().start)));
                    items.push(Found { value: as_text(element.get_ref(), &place)?.to_owned(), place });
                }
                Ok((Found { value: items, place: self.place(key, Some(line)) }, Origin::Line(line)))
            }
            (Some((value, line)), None) => {
                Err(self.place(key, Some(line)).invalid(format!("is {}, not a list", article(value)), format!("write {key} = [\"…\"]")))
            }
            (None, Some((value, line))) => {
                let place = self.place(&file_key, Some(line));
                let path = PathBuf::from(as_text(value, &place)?);
                let text = self.read_named(&place, &path)?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let items = lines.map(|text| Found { value: text.to_owned(), place: place.clone() }).collect();
                Ok((Found { value: items, place }, Origin::NamedFile { line, path }))
            }
        }
    }

    /// The text of a file that a key names.
    pub(super) fn read_named(&self, place: &Place, path: &Path) -> Result<String, ConfigError> {
        let in_route = self.path == "route";
        self.source.named.borrow_mut().read(place, path, &self.source.named_before, in_route)
    }

    fn twice(&self, key: &str, file_key: &str, line: usize) -> ConfigError {
        self.place(file_key, Some(line)).invalid(format!("{key} is given as well"), "keep one of the two")
    }

    fn refuse_unknown(&self, keys: &Keys) -> Result<(), ConfigError> {
        let names = self.table.into_iter().flat_map(|table| table.iter().map(|(name, _)| name));
        let first = names.filter(|name| !keys.knows(name.get_ref())).min_by_key(|name| name.span().start);
        let Some(name) = first else { return Ok(()) };
        let place = self.place(name.get_ref(), Some(self.source.line(name.span().start)));
        let known: Vec<_> = keys.all().collect();
        // [tls] is what many would write first.
        let nearest = if self.path.is_empty() && name.get_ref() == "tls" { "smtp.tls" } else { nearest(name.get_ref(), &known) };
        Err(place.invalid("unknown key", format!("the nearest known key is {nearest}")))
    }
}

/// The error of a word that is none of the known ones.
pub(super) fn unknown_word(place: &Place, word: &str, known: &[&str]) -> ConfigError {
    let list: Vec<_> = known.iter().map(|word| quoted(word)).collect();
    place.invalid(format!("unknown value {word:?}, nearest is {:?}", nearest(word, known)), format!("write one of {}", list.join(", ")))
}

fn nearest<'k>(word: &str, known: &[&'k str]) -> &'k str {
    let word = word.to_ascii_lowercase();
    let closeness = |candidate: &&&str| strsim::jaro_winkler(&word, candidate);
    known.iter().max_by(|a, b| closeness(a).total_cmp(&closeness(b))).copied().unwrap_or_default()
}

fn within<T: PartialOrd + Copy>(place: &Place, value: T, bound: Bound<T>, show: impl Fn(&T) -> String) -> Result<(), ConfigError> {
    if value < bound.least {
        return Err(place.invalid(format!("{} is too little", show(&value)), format!("write at least {}", show(&bound.least))));
    }
    if value > bound.most {
        return Err(place.invalid(format!("{} is too much", show(&value)), format!("write at most {}", show(&bound.most))));
    }
    Ok(())
}

fn as_text<'v>(value: &'v DeValue<'_>, place: &Place) -> Result<&'v str, ConfigError> {
    value.as_str().ok_or_else(|| place.invalid(format!("is {}, not a text", article(value)), "write it in double quotes"))
}

/// A number as TOML writes it, also hexadecimal and with underscores; `None` for a negative one.
fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value in an error; only numbers and flags are shown, since a text may be a secret.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(integer) => integer.as_str().to_owned(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::String(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => article(value).to_owned(),
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// As a TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
