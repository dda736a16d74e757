//! `include`: files of more routes, behind those of the configuration file. What has not changed since the last reload is not read again,
//! and a file that is broken then keeps its old routes. Logs nothing.

use super::effective::Block;
use super::error::{ConfigError, Place, Warning};
use super::file::{FoundList, Keys, Section, Source};
use super::files::check_routes;
use super::named::{Changes, NamedFiles};
use super::route;
use super::stamp::{self, Stamp};
use super::{Route, Secret};
use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Such a file has routes and nothing else.
const KEYS: Keys = Keys { texts: &[], others: &["route"] };

/// One included file, read.
#[derive(Clone, Debug)]
pub struct RouteFile {
    pub(super) path: PathBuf,
    /// `None`: it has to be read again in any case.
    stamp: Option<Stamp>,
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) warnings: Vec<Warning>,
    pub(super) blocks: Vec<Block>,
    /// Where values stand in files of their own: its text, and these files. They may change by themselves.
    named: Option<Box<(Secret, NamedFiles)>>,
}

/// The files that are in use, and what is wrong with those that are not in use as they are now.
#[derive(Default)]
pub(super) struct Included {
    pub(super) files: Vec<Arc<RouteFile>>,
    pub(super) broken: Vec<ConfigError>,
}

/// One file as it is now, or why it cannot be in use so, beside what of it was in use before.
pub(super) struct Choice {
    pub(super) read: Result<Arc<RouteFile>, ConfigError>,
    pub(super) before: Option<Arc<RouteFile>>,
}

impl Choice {
    pub(super) fn in_use(&self) -> Option<&Arc<RouteFile>> {
        self.read.as_ref().ok().or(self.before.as_ref())
    }
}

/// Files by the patterns' order, then by name; a relative pattern starts beside the configuration file. With `old` files (at a reload)
/// a broken one is none that ends it.
pub(super) fn read_all(
    patterns: &FoundList,
    beside: &Path,
    hostname: &str,
    old: Option<&[Arc<RouteFile>]>,
) -> Result<Vec<Choice>, ConfigError> {
    let known: HashMap<&Path, &Arc<RouteFile>> = old.unwrap_or_default().iter().map(|file| (file.path.as_path(), file)).collect();
    let mut choices = Vec::new();
    for path in paths(patterns, beside)? {
        let before = known.get(path.as_path()).copied();
        let unchanged = before.filter(|file| file.named.is_none() && file.stamp.is_some() && file.stamp == Stamp::of(&path));
        // One look at the disk for each that has not changed.
        if unchanged.is_none() && path.is_dir() {
            continue;
        }
        let read = match unchanged {
            Some(file) => Ok(Arc::clone(file)),
            None => RouteFile::read(&path, hostname, before).map(Arc::new),
        };
        // At a reload what its routes name is a part of it; at the start all of that is checked in the end.
        let read = match read {
            Ok(file) if old.is_some() && unchanged.is_none() => file.check().map(|()| file),
            Err(error) if old.is_none() => return Err(error),
            read => read,
        };
        choices.push(Choice { read, before: before.cloned() });
    }
    Ok(choices)
}

/// The same files with the values as they are now, of which at least one has changed.
pub(super) fn values_again(old: &[Arc<RouteFile>], hostname: &str) -> Vec<Choice> {
    let again = |file: &Arc<RouteFile>| match &file.named {
        Some(named) => RouteFile::parse(&file.path, hostname, file.stamp, named.0.expose().to_owned(), named.1.clone()).map(Arc::new),
        None => Ok(Arc::clone(file)),
    };
    old.iter().map(|file| Choice { read: again(file), before: Some(Arc::clone(file)) }).collect()
}

fn paths(patterns: &FoundList, beside: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut seen = HashSet::new();
    let mut paths = Vec::new();
    for pattern in &patterns.value {
        let whole = beside.join(&pattern.value);
        let found = glob::glob(&whole.to_string_lossy())
            .map_err(|error| pattern.invalid(format!("{:?} is no pattern: {}", pattern.value, error.msg), "write \"routes.d/*.toml\""))?;
        for path in found {
            let path = path.map_err(|error| {
                let file = error.path().to_owned();
                ConfigError::NamedFile { place: pattern.place.clone(), file, source: error.into() }
            })?;
            if !is_hidden(&path, &whole) && seen.insert(path.clone()) {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// A star is no dot in front. (The library's own option for it panics at a name that is not UTF-8.)
fn is_hidden(path: &Path, pattern: &Path) -> bool {
    let begins_with_dot = |component: Component<'_>| component.as_os_str().as_encoded_bytes().starts_with(b".");
    if path.components().count() == pattern.components().count() {
        return path.components().zip(pattern.components()).any(|(found, of)| begins_with_dot(found) && !begins_with_dot(of));
    }
    // Some directories stand for two stars.
    let plain = |component: &Component<'_>| !component.as_os_str().as_encoded_bytes().contains(&b'*');
    path.components().skip(pattern.components().take_while(plain).count()).any(begins_with_dot)
}

impl RouteFile {
    fn read(path: &Path, hostname: &str, before: Option<&Arc<Self>>) -> Result<Self, ConfigError> {
        // Before the text: what is written meanwhile is seen the next time.
        let stamp = Stamp::of(path).filter(Stamp::is_settled);
        let text = stamp::text(path).map_err(|source| ConfigError::Unreadable { file: path.to_owned(), source })?;
        let named_before = before.and_then(|before| before.named.as_ref()).map(|named| named.1.clone());
        let mut file = Self::parse(path, hostname, stamp, text, named_before.unwrap_or_default())?;
        file.routes = route::as_before(file.routes, before.map(|before| before.routes.as_slice()).unwrap_or_default());
        Ok(file)
    }

    fn parse(path: &Path, hostname: &str, stamp: Option<Stamp>, text: String, named_before: NamedFiles) -> Result<Self, ConfigError> {
        let source = Source::new(path.display().to_string(), text, named_before);
        let tree = source.parse()?;
        let root = Section::root(&source, tree.get_ref(), &KEYS)?;
        let mut sections = root.tables("route", &route::KEYS)?;
        sections.iter_mut().for_each(Section::be_brief);
        let mut warnings = Vec::new();
        let routes = route::read_all(&mut sections, &default_name(path), hostname, &mut warnings)?;
        let blocks = sections.into_iter().map(Section::into_block).collect();
        drop(root);
        drop(tree);
        let (text, named) = source.into_parts();
        let named = (!named.is_empty()).then(|| Box::new((Secret::new(text), named)));
        Ok(Self { path: path.to_owned(), stamp, routes, warnings, blocks, named })
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_routes(&self.routes, |index, key| self.place(index, key))
    }

    /// Where a key of a route stands.
    pub(super) fn place(&self, index: usize, key: &str) -> Place {
        let line = self.blocks.get(index).and_then(|block| block.line(key));
        Place { file: self.path.display().to_string(), line, key: format!("route.{key}") }
    }

    /// Has any of the files that its values stand in changed?
    pub(super) fn look(&self, changes: &mut Changes) {
        self.named.iter().for_each(|named| named.1.look(changes));
    }
}

/// Of `acme.example.toml` the routes are `acme.example-1` and so on, where they do not say what they are called.
fn default_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).take(48).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const URL: &str = "url = \"https://app.example.com/in\"\n";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(main: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write(
                "main.toml",
                &format!("include = [\"routes.d/*.toml\", \"more.toml\"]\n[smtp]\nhostname = \"mx.example.com\"\n{main}"),
            );
            std::fs::create_dir(folder.0.path().join("routes.d")).unwrap();
            folder
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        fn routes(&self, name: &str, routes: &[&str]) {
            let route = |name: &&str| format!("[[route]]\nname = \"{name}\"\nrecipients = [\"*@{name}.example\"]\n{URL}");
            self.write(name, &routes.iter().map(route).collect::<String>());
        }

        fn load(&self) -> Result<Config, String> {
            Config::load(Some(&self.0.path().join("main.toml"))).map_err(|error| self.line(&error))
        }

        fn again(&self, old: &Config) -> (Config, Vec<String>) {
            let (config, broken) = Config::load_again(&self.0.path().join("main.toml"), old).unwrap();
            (config, broken.iter().map(|error| self.line(error)).collect())
        }

        fn line(&self, error: &ConfigError) -> String {
            error.to_string().replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn names(config: &Config) -> Vec<&str> {
        config.routes.iter().map(|route| route.name.as_str()).collect()
    }

    #[test]
    fn files_stand_behind_the_main_one_in_the_order_of_their_names() {
        let folder = Folder::new(&format!("[[route]]\nrecipients = [\"a@b.example\"]\n{URL}"));
        assert_eq!(names(&folder.load().unwrap()), ["route-1"], "a pattern that matches nothing is fine");
        folder.routes("routes.d/20.toml", &["c", "d"]);
        folder.routes("routes.d/10.toml", &["b"]);
        folder.routes("routes.d/not-this.txt", &["x"]);
        folder.routes("routes.d/.hidden.toml", &["x"]);
        folder.routes("more.toml", &["e"]);
        folder.write("routes.d/30 no name.toml", &format!("[[route]]\nrecipients = [\"*\"]\n{URL}"));
        folder.write("routes.d/40.toml", "");
        std::fs::create_dir(folder.0.path().join("routes.d/45.toml")).unwrap();
        // What is no text is matched by nothing, and ends nothing.
        let odd = std::ffi::OsStr::from_bytes(b"routes.d/50\xff.toml");
        std::fs::write(folder.0.path().join(odd), "[[route]]\n").unwrap();
        let config = folder.load().unwrap();
        assert_eq!(names(&config), ["route-1", "b", "c", "d", "30_no_name-1", "e"]);
        let shown = config.effective_text();
        assert!(shown.contains("routes.d/20.toml") && shown.contains("*@d.example"), "{shown}");
        // What is shown of them does not stand in the way of reading it back.
        let again = Config::parse(config.origin.clone(), &shown).unwrap();
        assert_eq!(names(&again), names(&config));
    }

    #[test]
    fn a_star_is_no_dot_in_front() {
        for (path, pattern, hidden) in [
            ("/etc/r.d/a.toml", "/etc/r.d/*.toml", false),
            ("/etc/r.d/.a.toml", "/etc/r.d/*.toml", true),
            ("/etc/r.d/.a.toml", "/etc/r.d/.*.toml", false),
            ("/etc/.r.d/a.toml", "/etc/*/a.toml", true),
            ("/home/.x/r.d/a.toml", "/home/.x/r.d/*.toml", false),
            ("/home/.x/r.d/a.toml", "/home/.x/**/*.toml", false),
            ("/home/.x/r.d/.git/a.toml", "/home/.x/**/*.toml", true),
            ("/home/.x/../r.d/a.toml", "/home/.x/../r.d/*.toml", false),
        ] {
            assert_eq!(super::is_hidden(Path::new(path), Path::new(pattern)), hidden, "{path} by {pattern}");
        }
    }

    #[test]
    fn what_a_reload_changes_is_what_was_read_again() {
        let folder = Folder::new(&format!("[[route]]\nname = \"own\"\nrecipients = [\"*\"]\n{URL}"));
        for (file, routes) in [("1", ["a", "b"]), ("2", ["c", "d"]), ("3", ["e", "f"])] {
            folder.routes(&format!("routes.d/{file}.toml"), &routes);
        }
        let mut config = folder.load().unwrap();
        let mut step = |file: &str, routes: &[&str], left: &[&str], came: &[&str]| {
            folder.routes(&format!("routes.d/{file}.toml"), routes);
            let (again, _) = folder.again(&config);
            let (gone, come) = again.changed(&config);
            let of = |routes: &[Arc<super::Route>]| routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
            assert_eq!(
                (of(gone), of(come)),
                (left.iter().map(ToString::to_string).collect(), came.iter().map(ToString::to_string).collect())
            );
            config = again;
        };
        // Whether a file was read again or not.
        step("2", &["c", "d"], &[], &[]);
        step("2", &["c", "x", "d"], &[], &["x"]);
        step("3", &["f"], &["e"], &[]);
        step("4", &["y"], &[], &["y"]);
        step("1", &["b", "a"], &["a", "b"], &["b", "a"]);
        folder.write("routes.d/3.toml", &format!("[[route]]\nname = \"f\"\nrecipients = [\"*@g.example\"]\n{URL}"));
        step("1", &["a"], &["b", "a", "c", "x", "d", "f"], &["a", "c", "x", "d", "f"]);
    }

    #[test]
    fn a_broken_file_is_an_error_at_the_start() {
        let folder = Folder::new("");
        assert!(folder.load().unwrap_err().contains("no [[route]] is configured"));
        folder.routes("routes.d/1.toml", &["a"]);
        for (text, line) in [
            ("[[route]]\nrecipients = [\"*\"]\n", "routes.d/2.toml:1: route.url: is missing; write url = "),
            ("\n[smtp]\nlisten = []\n", "routes.d/2.toml:2: smtp: unknown key; "),
            ("include = []\n", "routes.d/2.toml:1: include: unknown key; "),
            ("[[route\n", "routes.d/2.toml:1: not TOML: "),
            (
                "[[route]]\nname = \"a\"\nrecipients = [\"*\"]\nurl = \"http://x/\"\n",
                "routes.d/2.toml:2: route.name: a route before this one is named \"a\" as well",
            ),
            ("[[route]]\nrecipients = [\"*\"]\nurl = \"http://x/\"\nformat = \"xml\"\n", "routes.d/2.toml:4: route.format: unknown value"),
        ] {
            folder.write("routes.d/2.toml", text);
            let got = folder.load().unwrap_err();
            assert!(got.starts_with(line), "{got}, and not {line}");
        }
        folder.write("routes.d/2.toml", &format!("\n[[route]]\nrecipients = [\"*\"]\n{URL}ca_certificate = \"/does/not/exist\"\n"));
        let error = folder.line(&folder.load().unwrap().check_files().unwrap_err());
        assert!(error.starts_with("routes.d/2.toml:5: route.ca_certificate: /does/not/exist: "), "{error}");
    }

    /// It would be waited for until somebody writes into it.
    #[test]
    fn a_pipe_is_no_file_of_routes_or_values() {
        let folder = Folder::new("");
        folder.routes("routes.d/1.toml", &["a"]);
        let config = folder.load().unwrap();
        let pipe = |name: &str| nix::unistd::mkfifo(&folder.0.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        pipe("routes.d/2.toml");
        assert!(folder.load().unwrap_err().contains("routes.d/2.toml: cannot be read: no regular file"));
        let (again, broken) = folder.again(&config);
        assert_eq!((names(&again), broken.len()), (vec!["a"], 1));
        std::fs::remove_file(folder.0.path().join("routes.d/2.toml")).unwrap();
        // How a file of a folder is masked.
        std::os::unix::fs::symlink("/dev/null", folder.0.path().join("routes.d/2.toml")).unwrap();
        assert_eq!(names(&folder.load().unwrap()), ["a"]);
        pipe("url");
        let value = folder.0.path().join("url");
        folder.write("routes.d/3.toml", &format!("[[route]]\nrecipients = [\"*\"]\nurl_file = \"{}\"\n", value.display()));
        assert!(folder.load().unwrap_err().contains("no regular file"));
    }

    #[test]
    fn a_broken_file_keeps_its_old_routes_at_a_reload() {
        let folder = Folder::new("");
        folder.routes("routes.d/1.toml", &["a", "b"]);
        folder.routes("routes.d/2.toml", &["c"]);
        folder.routes("routes.d/3.toml", &["d"]);
        let config = folder.load().unwrap();
        folder.write("routes.d/1.toml", "[[route]]\nrecipient = [\"*\"]\n");
        folder.routes("routes.d/2.toml", &["c2"]);
        std::fs::remove_file(folder.0.path().join("routes.d/3.toml")).unwrap();
        folder.write("routes.d/4.toml", "junk");
        let (config, broken) = folder.again(&config);
        assert_eq!(names(&config), ["a", "b", "c2"]);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(
            broken[0].starts_with("routes.d/1.toml:2: route.recipient: unknown key; the nearest known key is recipients"),
            "{broken:?}"
        );
        assert!(broken[1].starts_with("routes.d/4.toml:1: not TOML"), "{broken:?}");
        // A name that is taken already breaks the later file.
        folder.routes("routes.d/2.toml", &["b"]);
        let (config, broken) = folder.again(&config);
        assert_eq!(names(&config), ["a", "b", "c2"]);
        assert_eq!(broken.len(), 3);
        // Everything is mended.
        folder.routes("routes.d/1.toml", &["a"]);
        folder.routes("routes.d/4.toml", &["e"]);
        let (config, broken) = folder.again(&config);
        assert_eq!((names(&config), broken.len()), (vec!["a", "b", "e"], 0));
    }

    /// Whatever comes in elsewhere under its name, or however its file breaks.
    #[test]
    fn no_route_that_was_in_use_goes_for_a_name() {
        const JUNK: &str = "[[";
        // What is written then, what is in use, and what is said.
        type Case = (&'static [(&'static str, &'static str)], &'static str, &'static [&'static str]);
        let own = format!("[[route]]\nname = \"own\"\nrecipients = [\"*@own.example\"]\n{URL}");
        let before: &[(&str, &[&str])] = &[("a", &["a0", "a1"]), ("b", &["b0", "b1"]), ("c", &["c0"])];
        let cases: &[Case] = &[
            (&[("a", "a0 a1 b1")], "a0 a1 b0 b1 c0", &["routes.d/a.toml:10: route.name: \"b1\" is a route of routes.d/b.toml already"]),
            // The file that has the name is written as well, and comes in.
            (
                &[("a", "a0 b1"), ("b", "b1 b2")],
                "a0 a1 b1 b2 c0",
                &["routes.d/a.toml:6: route.name: \"b1\" is a route of routes.d/b.toml already"],
            ),
            (
                &[("a", "b0 a0"), ("b", JUNK)],
                "a0 a1 b0 b1 c0",
                &["routes.d/a.toml:2: route.name: \"b0\" is a route of", "routes.d/b.toml:1: not TOML"],
            ),
            (&[("b", "b0 b1 a1")], "a0 a1 b0 b1 c0", &["routes.d/b.toml:10: route.name: a route before this one is named \"a1\" as well"]),
            // One gives way to a broken one, and what it had is missing to a third.
            (
                &[("a", "a0 b1"), ("b", "b0 c0"), ("c", JUNK)],
                "a0 a1 b0 b1 c0",
                &["routes.d/a.toml:6: route.name: \"b1\" is", "routes.d/b.toml:6: route.name: \"c0\" is", "routes.d/c.toml:1: not TOML"],
            ),
            // Names change places, and nothing is wrong with that.
            (&[("a", "b0 a1"), ("b", "a0 b1")], "b0 a1 a0 b1 c0", &[]),
            (&[("a", "a0"), ("c", "a1 c0")], "a0 b0 b1 a1 c0", &[]),
            // New files: the one in front has what both want, and none has what is in use.
            (
                &[("0", "x y"), ("d", "y"), ("1", "c0 z")],
                "x y a0 a1 b0 b1 c0",
                &[
                    "routes.d/1.toml:2: route.name: \"c0\" is a route of routes.d/c.toml already",
                    "routes.d/d.toml:2: route.name: a route before",
                ],
            ),
            (&[("0", "a0 b0 c0")], "a0 a1 b0 b1 c0", &["routes.d/0.toml:2: route.name: \"a0\" is a route of"]),
            (&[("b", "own")], "a0 a1 b0 b1 c0", &["routes.d/b.toml:2: route.name: a route before this one is named \"own\""]),
        ];
        for (then, used, said) in cases {
            let folder = Folder::new(&own);
            before.iter().for_each(|(file, routes)| folder.routes(&format!("routes.d/{file}.toml"), routes));
            let config = folder.load().unwrap();
            for (file, routes) in *then {
                let file = format!("routes.d/{file}.toml");
                if *routes == JUNK {
                    folder.write(&file, JUNK);
                } else {
                    folder.routes(&file, &routes.split(' ').collect::<Vec<_>>());
                }
            }
            let (again, broken) = folder.again(&config);
            assert_eq!(names(&again)[1..].join(" "), *used, "{then:?}");
            assert!(broken.len() == said.len() && broken.iter().zip(*said).all(|(got, said)| got.starts_with(said)), "{broken:?}");
            // Again and again the same.
            let (third, broken_again) = folder.again(&again);
            assert_eq!((names(&third), broken_again), (names(&again), broken), "{then:?}");
            assert_eq!(folder.load().is_ok(), said.is_empty(), "{then:?}");
        }
        // The configuration file has nothing to go back to but all of it.
        let folder = Folder::new(&own);
        before.iter().for_each(|(file, routes)| folder.routes(&format!("routes.d/{file}.toml"), routes));
        let config = folder.load().unwrap();
        folder.write(
            "main.toml",
            &format!("include = [\"routes.d/*.toml\"]\n[smtp]\nhostname = \"mx.example.com\"\n{own}[[route]]\nname = \"b1\"\nrecipients = [\"*\"]\n{URL}"),
        );
        for broken in [false, true] {
            if broken {
                folder.write("routes.d/b.toml", "junk");
            }
            let error = folder.line(&Config::load_again(&folder.0.path().join("main.toml"), &config).unwrap_err());
            assert!(error.starts_with("main.toml:9: route.name: \"b1\" is a route of routes.d/b.toml already"), "{error}");
        }
        // Without a name of its own a route stands where its table begins.
        folder.write("routes.d/b.toml", &format!("\n[[route]]\nrecipients = [\"*\"]\n{URL}"));
        folder.routes("routes.d/c.toml", &["b-1"]);
        let (_, broken) = Config::load_again(&folder.0.path().join("main.toml"), &config).unwrap();
        assert!(folder.line(&broken[0]).starts_with("routes.d/c.toml:2: route.name: a route before"), "{broken:?}");
        folder.routes("routes.d/a.toml", &["b-1"]);
        let error = folder.line(&Config::load(Some(&folder.0.path().join("main.toml"))).unwrap_err());
        assert!(error.starts_with("routes.d/b.toml:2: route.name: a route before this one is named \"b-1\""), "{error}");
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let folder = Folder::new("");
        folder.routes("routes.d/1.toml", &["a"]);
        folder.routes("routes.d/2.toml", &["b"]);
        folder.write("secret", "https://app.example.com/1\n");
        folder.write(
            "more.toml",
            &format!("[[route]]\nname = \"c\"\nrecipients = [\"*\"]\nurl_file = \"{}\"\n", folder.0.path().join("secret").display()),
        );
        let mut config = folder.load().unwrap();
        let same = |one: &Config, other: &Config, index: usize| Arc::ptr_eq(&one.route_files[index], &other.route_files[index]);
        // A file that is younger than a second is read again to be sure.
        let begun = Instant::now();
        loop {
            let (again, _) = folder.again(&config);
            if same(&config, &again, 0) && same(&config, &again, 1) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_mins(1));
            config = again;
            std::thread::yield_now();
        }
        folder.routes("routes.d/1.toml", &["z"]);
        folder.write("secret", "https://app.example.com/2\n");
        let (again, _) = folder.again(&config);
        assert!(!same(&config, &again, 0) && same(&config, &again, 1));
        assert_eq!((names(&again), again.routes[2].target.url.path()), (vec!["z", "b", "c"], "/2"));
        assert_eq!(Path::new("routes.d/1.toml"), again.route_files[0].path.strip_prefix(folder.0.path()).unwrap());
    }
}
