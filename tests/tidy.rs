//! What holds of the sources themselves: imports point one way, one folder names the ring, the map names what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may name whom, of our own modules (ARCHITECTURE.md has the same table). Every module may name itself.
const IMPORTS: &[(&str, &[&str])] = &[
    ("envelope", &[]),
    ("mailbox", &[]),
    ("message", &[]),
    ("record", &[]),
    ("ring", &[]),
    ("log", &["config"]),
    ("config", &["mailbox"]),
    ("stats", &["config", "record"]),
    ("smtp", &["envelope", "mailbox"]),
    ("route", &["config", "envelope", "mailbox"]),
    ("verify", &["config", "envelope", "message", "stats", "log"]),
    ("store", &["mailbox", "record", "config", "stats", "log"]),
    ("format", &["mailbox", "message", "envelope", "config", "verify", "log"]),
    // Of `message` only the charsets.
    ("http", &["ring", "message"]),
    ("forward", &["ring", "http", "format", "message", "envelope", "config", "stats", "verify", "log"]),
    ("delivery", &["forward", "format", "store", "route", "verify", "smtp", "message", "envelope", "record", "stats", "config", "log"]),
    ("net", &["ring", "smtp", "envelope", "message", "delivery", "stats", "config", "log"]),
    // Of `http` only whom we trust.
    ("fleet", &["store", "stats", "record", "mailbox", "config", "log", "http"]),
    // Of `message` the budget's gauge and the sample.
    ("admin", &["fleet", "store", "stats", "record", "config", "log", "message"]),
    (
        "daemon",
        &[
            "net", "admin", "fleet", "delivery", "ring", "forward", "http", "format", "store", "route", "verify", "smtp", "message",
            "envelope", "record", "stats", "config", "log",
        ],
    ),
    ("cli", &["daemon", "fleet", "admin", "message", "http", "config", "record", "route", "stats", "log", "store", "ring", "verify"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder with this extension.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The fuzzer builds in its own folder.
        if path.is_dir() && path.ends_with("target") {
            continue;
        } else if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The top-level module that a source file belongs to.
fn module(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Shipped code without its comments, line by line, with line numbers; the unit tests stand at the bottom.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let shipped = text.lines().take_while(|line| *line != "#[cfg(test)]");
    shipped.enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap())).filter(|(_, line)| !line.trim().is_empty())
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for file in files(&root().join("src"), "rs") {
        let module = module(&file);
        if matches!(module.as_str(), "main" | "lib") {
            continue;
        }
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module {module} is not in the table", file.display()));
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for (n, line) in code(&text) {
            for after in line.split("crate::").skip(1) {
                let names = match after.strip_prefix('{') {
                    Some(list) => list.split(['}', ',']).map(|name| name.split("::").next().unwrap().trim().to_owned()).collect(),
                    None => vec![after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()],
                };
                for name in names {
                    let known = IMPORTS.iter().any(|(module, _)| *module == name);
                    if known && name != module && !allowed.contains(&name.as_str()) {
                        wrong.push(format!("{}:{n}: {module} names {name}", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder's `mod.rs` hands on what its files have; where it has code of its own it is a file as any other.
const DOOR: &str = "mod.rs";

/// What a text says from each `start` on, as the first name there; of a list all its names.
fn named<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).flat_map(|after| {
        let list = match after.strip_prefix('{') {
            // Nested lists have the names of items in them, which are no files.
            Some(list) => list.split(';').next().unwrap(),
            None => after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap(),
        };
        list.split([',', '{', '}']).map(|name| name.trim().split("::").next().unwrap()).filter(|name| !name.is_empty())
    })
}

/// The files of a folder (or of one in it) that this one imports: by `super::`, by `crate::` with the folder's name, and a `mod.rs` by the
/// names of its files. What a `mod.rs` hands on from a file is that file's.
fn imports(file: &Path, text: &str, folder: &Path) -> Vec<PathBuf> {
    let shipped: String = code(text).map(|(_, line)| format!("{line}\n")).collect();
    let door = std::fs::read_to_string(folder.join(DOOR)).unwrap_or_default();
    let door = code(&door).map(|(_, line)| line).collect::<Vec<_>>().join(" ");
    let handed_on: Vec<&str> = door.split("use ").skip(1).map(|one| one.split(';').next().unwrap()).collect();
    let is_word_of = |text: &str, name: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    let of = |name: &str| [folder.join(format!("{name}.rs")), folder.join(name).join(DOOR)].into_iter().find(|path| path.exists());
    let target = |name: &str| {
        let by_hand = || handed_on.iter().find(|one| is_word_of(one, name)).and_then(|one| of(one.split("::").next().unwrap().trim()));
        let of_door = || {
            let kinds = ["fn ", "struct ", "enum ", "trait ", "const ", "static ", "type "];
            let defines = |kind: &str| {
                door.split(kind).skip(1).any(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next() == Some(name))
            };
            kinds.into_iter().any(defines).then(|| folder.join(DOOR))
        };
        of(name).or_else(by_hand).or_else(of_door)
    };
    let inside = format!("crate::{}::", folder.strip_prefix(root().join("src")).unwrap().to_str().unwrap().replace('/', "::"));
    let mut found: Vec<PathBuf> = named(&shipped, &inside).filter_map(target).collect();
    if file.ends_with(DOOR) {
        // What it only hands on it does not need.
        let hands_on = |statement: &str| {
            ["pub use ", "pub(super) use ", "pub(crate) use "].iter().any(|start| statement.trim_start().starts_with(start))
        };
        let own = shipped.split_inclusive(';').filter(|statement| !hands_on(statement)).collect::<String>();
        let words = own.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        found.extend(words.filter_map(|word| word.split_once("::")).filter_map(|(name, _)| of(name)));
    } else {
        found.extend(named(&shipped, "super::").filter_map(target));
    }
    found.retain(|target| target != file);
    found
}

#[test]
fn no_files_import_each_other() {
    let mut wrong = Vec::new();
    let files = files(&root().join("src"), "rs");
    let known = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let folder = file.parent().unwrap();
        if folder.ends_with("src") || text.is_empty() { Vec::new() } else { imports(file, &text, folder) }
    };
    let edges: std::collections::HashMap<&PathBuf, Vec<PathBuf>> = files.iter().map(|file| (file, known(file))).collect();
    let of_doors: usize = edges.iter().filter(|(file, _)| file.ends_with(DOOR)).map(|(_, known)| known.len()).sum();
    assert!(edges.values().map(Vec::len).sum::<usize>() > 200 && of_doors > 50, "the imports are not found any more");
    for file in &files {
        let (mut seen, mut next) = (std::collections::HashSet::new(), edges[file].clone());
        while let Some(one) = next.pop() {
            if one == *file {
                wrong.push(format!("{} is in a circle of imports", file.display()));
                break;
            }
            if seen.insert(one.clone()) {
                next.extend(edges.get(&one).into_iter().flatten().cloned());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_ring_names_io_uring() {
    let mut wrong = Vec::new();
    for file in files(&root().join("src"), "rs") {
        if module(&file) == "ring" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for (n, line) in code(&text) {
            if line.contains("tokio_uring") || line.contains("io_uring::") {
                wrong.push(format!("{}:{n}: {line}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "benches"] {
        let dir = root().join(dir);
        for file in if dir.exists() { files(&dir, "rs") } else { Vec::new() } {
            let text = std::fs::read_to_string(&file).unwrap();
            if !text.starts_with("//!") && !text.starts_with("#![no_main]") {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "no `//!` on top: {wrong:?}");
}

/// Words that mark what is not finished.
#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("HA", "CK:"),
    ];
    let mut wrong = Vec::new();
    for dir in ["src", "tests"] {
        for file in files(&root().join(dir), "rs") {
            let text = std::fs::read_to_string(&file).unwrap();
            for (n, line) in text.lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {line}", file.display(), n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Paths in backquotes that look like ours exist.
#[test]
fn the_documents_name_files_that_are_there() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in ["ARCHITECTURE.md", "README.md", "SECURITY.md", "CHANGELOG.md"] {
        let Ok(text) = std::fs::read_to_string(root().join(document)) else {
            wrong.push(format!("{document} is missing"));
            continue;
        };
        for name in text.split('`').skip(1).step_by(2) {
            let ours = ["src/", "tests/", "packaging/", "systemd/", "benches/", ".ci/"].iter().any(|dir| name.starts_with(dir));
            if !ours || name.contains([' ', '*', '<', '{', '…']) {
                continue;
            }
            seen += 1;
            let path = name.split([':', '#']).next().unwrap();
            if !root().join(path).exists() {
                wrong.push(format!("{document} names {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "only {seen} paths in the documents");
}

/// What the linker lays side by side is named by modules: one that has moved would lie far off again, without a word.
#[test]
fn the_linkers_list_names_modules_that_are_there() {
    let list = std::fs::read_to_string(root().join("packaging/path.ld")).unwrap();
    let named: BTreeSet<_> = list
        .split("_ZN10mailsluice")
        .skip(1)
        .map(|rest| {
            let name = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let octets = rest[..rest.len() - name.len()].parse().unwrap();
            &name[..octets]
        })
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        let src = root().join("src");
        assert!(src.join(name).is_dir() || src.join(format!("{name}.rs")).exists(), "no module {name}: cargo bench --bench path");
    }
}
