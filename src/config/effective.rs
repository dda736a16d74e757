//! The effective configuration as text: every value with its origin, and no secret. What `check` prints.

use super::Config;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Where one value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    Line(usize),
    NamedFile { line: usize, path: PathBuf },
}

/// A value as TOML would write it.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) origin: Origin,
    /// What a template becomes.
    pub(super) example: Option<String>,
}

/// A table of the file.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) header: String,
    pub(super) start: Option<usize>,
    pub(super) values: Vec<Value>,
}

/// What the reader of the file noted, for [`Config::effective_text`].
#[derive(Clone, Debug, Default)]
pub struct Values(pub(super) Vec<Block>);

impl Values {
    /// The line of a key in the `index`-th table of that header.
    pub(super) fn line(&self, header: &str, index: usize, key: &str) -> Option<usize> {
        self.0.iter().filter(|block| block.header == header).nth(index)?.line(key)
    }
}

impl Block {
    /// Of what is not written: where the table begins.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        match self.values.iter().find(|value| value.key == key).map(|value| &value.origin) {
            None | Some(Origin::Default) => self.start,
            Some(Origin::Line(line) | Origin::NamedFile { line, .. }) => Some(*line),
        }
    }

    fn write(&self, text: &mut String) {
        let line = |value: &'_ Value| format!("{} = {}", value.key, value.text);
        let lines: Vec<_> = self.values.iter().map(|value| (line(value), &value.origin, &value.example)).collect();
        // Longer lines than this push their origin out by themselves.
        let width = lines.iter().map(|(line, ..)| line.chars().count()).filter(|&width| width <= 60).max().unwrap_or(0);
        // Writing to a String cannot fail. The root has no header.
        _ = if self.header.is_empty() { writeln!(text) } else { writeln!(text, "\n{}", self.header) };
        for (line, origin, example) in lines {
            _ = match origin {
                Origin::Default => writeln!(text, "{line:width$}  # default"),
                Origin::Line(number) => writeln!(text, "{line:width$}  # line {number}"),
                Origin::NamedFile { line: number, path } => {
                    writeln!(text, "{line:width$}  # from {}, line {number}", path.display())
                }
            };
            if let Some(example) = example {
                _ = writeln!(text, "#   {example}");
            }
        }
    }
}

impl Config {
    /// TOML that reads back to this configuration but for its secrets, each line with its origin behind it.
    #[must_use]
    pub fn effective_text(&self) -> String {
        let source = match &self.origin {
            super::Origin::Development => super::development::NAME.to_owned(),
            super::Origin::File(path) => path.display().to_string(),
        };
        let mut text = format!("# {source}\n");
        for block in self.values.0.iter().filter(|block| !block.values.is_empty()) {
            block.write(&mut text);
        }
        for file in &self.route_files {
            let mut routes = String::new();
            file.blocks.iter().for_each(|block| block.write(&mut routes));
            // Shown, and not read back: `include` brings them.
            _ = writeln!(text, "\n# {}", file.path.display());
            routes.lines().for_each(|line| _ = writeln!(text, "# {line}"));
        }
        text
    }
}
