//! From a file to the effective [`Config`]: sections in their order, then what only several values together can show.
//!
//! Reads the configuration file and the files that `*_file` keys name; the certificates are `files`' matter.

use super::clash::{self, Own};
use super::effective::Values;
use super::error::{ConfigError, Place, Warning};
use super::file::{Keys, Section, Source};
use super::include::{self, Included};
use super::named::Changes;
use super::{Config, Origin, Route, Secret, development, fleet, other, route, smtp, unit};
use std::path::Path;
use std::sync::Arc;

/// Of so many routes `check` shows every value; of more, and of those in included files, what is written.
const SHOWN_WHOLE: usize = 1000;

/// What is read again, and beside what.
#[derive(Clone, Copy)]
enum Before<'a> {
    Nothing,
    /// Included files that are broken now keep their old routes.
    Files(&'a Config),
    /// Only values in files of their own.
    Values(&'a Config),
}

const KEYS: Keys =
    Keys { texts: &["include"], others: &["smtp", "route", "forward", "memory", "store", "dns", "admin", "log", "fleet", "shutdown"] };

impl Config {
    /// The configuration of a file, or the development configuration.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::parse(Origin::Development, development::TEXT);
        };
        Ok(Self::read(path, Before::Nothing)?.0)
    }

    /// The file read again: what of its included files is broken now keeps its old routes, and is told.
    pub fn load_again(path: &Path, old: &Self) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        Self::read(path, Before::Files(old))
    }

    /// Have values that stand in files of their own changed?
    #[must_use]
    pub fn look_at_values(&self) -> Changes {
        let mut changes = Changes::default();
        self.named.iter().for_each(|named| named.1.look(&mut changes));
        self.route_files.iter().for_each(|file| file.look(&mut changes));
        changes
    }

    /// The same configuration, as it was written then, with such values as they are now.
    pub fn values_again(&self) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        if let Some(named) = &self.named {
            return Self::parse_with(self.origin.clone(), named.0.expose(), Before::Values(self));
        }
        let own = self.own_routes();
        let place = |index| self.place_of("[[route]]", index, "name");
        let Included { files, broken } =
            clash::settle(&Own { routes: own, place: &place }, include::values_again(&self.route_files, &self.smtp.hostname))?;
        let routes = own.iter().chain(files.iter().flat_map(|file| &file.routes)).cloned().collect();
        Ok((Self { routes, route_files: files, ..self.clone() }, broken))
    }

    fn read(path: &Path, old: Before<'_>) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { file: path.to_owned(), source })?;
        Self::parse_with(Origin::File(path.to_owned()), &text, old)
    }

    /// The configuration written in a text; `origin` names it in errors.
    pub fn parse(origin: Origin, text: &str) -> Result<Self, ConfigError> {
        Ok(Self::parse_with(origin, text, Before::Nothing)?.0)
    }

    fn parse_with(origin: Origin, text: &str, old: Before<'_>) -> Result<(Self, Vec<ConfigError>), ConfigError> {
        let name = match &origin {
            Origin::Development => development::NAME.to_owned(),
            Origin::File(path) => path.display().to_string(),
        };
        let named_before = match old {
            Before::Nothing => None,
            Before::Files(old) | Before::Values(old) => old.named.as_ref().map(|named| named.1.clone()),
        };
        let source = Source::new(name, text.to_owned(), named_before.unwrap_or_default());
        let tree = source.parse()?;
        let mut root = Section::root(&source, tree.get_ref(), &KEYS)?;

        // Unknown keys anywhere come before wrong values, so all sections are opened first.
        let mut smtp_section = root.table("smtp", &smtp::KEYS)?;
        let mut tls_section = smtp_section.table("tls", &smtp::TLS_KEYS)?;
        let mut route_sections = root.tables("route", &route::KEYS)?;
        let mut forward_section = root.table("forward", &other::FORWARD_KEYS)?;
        let mut breaker_section = forward_section.table("breaker", &other::BREAKER_KEYS)?;
        let mut memory_section = root.table("memory", &other::MEMORY_KEYS)?;
        let mut store_section = root.table("store", &other::STORE_KEYS)?;
        let mut dns_section = root.table("dns", &other::DNS_KEYS)?;
        let mut admin_section = root.table("admin", &other::ADMIN_KEYS)?;
        let mut log_section = root.table("log", &other::LOG_KEYS)?;
        let mut fleet_section = root.table("fleet", &fleet::KEYS)?;
        let mut shutdown_section = root.table("shutdown", &other::SHUTDOWN_KEYS)?;

        let mut warnings = Vec::new();
        let tls = smtp::read_tls(&mut tls_section)?;
        let smtp = smtp::read(&mut smtp_section, tls)?;
        let forward = other::forward(&mut forward_section, &mut breaker_section)?;
        let include = root.texts("include", &[])?;
        route_sections.iter_mut().skip(SHOWN_WHOLE).for_each(Section::be_brief);
        let own_before = match old {
            Before::Nothing => &[],
            Before::Files(old) | Before::Values(old) => old.own_routes(),
        };
        let mut routes = route::as_before(route::read_all(&mut route_sections, "route", &smtp.hostname, &mut warnings)?, own_before);
        let beside = match &origin {
            Origin::File(path) => path.parent().unwrap_or(Path::new("")),
            Origin::Development => Path::new(""),
        };
        let choices = match old {
            Before::Nothing => include::read_all(&include, beside, &smtp.hostname, None)?,
            Before::Files(old) => include::read_all(&include, beside, &smtp.hostname, Some(&old.route_files))?,
            Before::Values(old) => include::values_again(&old.route_files, &smtp.hostname),
        };
        let place = |index: usize| route_sections.get(index).map(|section: &Section<'_>| section.place_of("name")).unwrap_or_default();
        let Included { files: route_files, mut broken } = clash::settle(&Own { routes: &routes, place: &place }, choices)?;
        if matches!(old, Before::Nothing) && !broken.is_empty() {
            return Err(broken.swap_remove(0));
        }
        for file in &route_files {
            routes.extend_from_slice(&file.routes);
            warnings.extend_from_slice(&file.warnings);
        }
        if routes.is_empty() {
            let place = Place { file: source.name.clone(), line: None, key: "route".to_owned() };
            return Err(place.invalid(
                "no [[route]] is configured, so no mail could be taken",
                "write a [[route]] with recipients = [\"*@example.com\"] and url = \"https://app.example.com/inbound\"",
            ));
        }
        let memory = other::memory(&mut memory_section)?;
        let store = other::store(&mut store_section)?;
        let dns = other::dns(&mut dns_section)?;
        let admin = other::admin(&mut admin_section)?;
        let log = other::log(&mut log_section)?;
        let fleet = fleet::fleet(&mut fleet_section)?;
        let shutdown = other::shutdown(&mut shutdown_section)?;

        let mut sections = vec![root, smtp_section, tls_section];
        sections.extend(route_sections);
        sections.extend([forward_section, breaker_section, memory_section, store_section, dns_section]);
        sections.extend([admin_section, log_section, fleet_section, shutdown_section]);
        let values = Values(sections.into_iter().map(Section::into_block).collect());
        drop(tree);
        let (text, named) = source.into_parts();
        let named = (!named.is_empty()).then(|| Box::new((Secret::new(text), named)));
        let mut config =
            Self { origin, smtp, routes, route_files, forward, memory, store, dns, admin, log, fleet, shutdown, warnings, named, values };
        config.weigh();
        Ok((config, broken))
    }

    /// The routes of `before` that are not among these as they were, and these that were not among them: what is the same in front and behind
    /// is left out, and what has not been read again is the same.
    #[must_use]
    pub fn changed<'c>(&'c self, before: &'c Self) -> (&'c [Arc<Route>], &'c [Arc<Route>]) {
        let same = |(one, other): &(&Arc<Route>, &Arc<Route>)| Arc::ptr_eq(one, other);
        let (old, new) = (before.routes.as_slice(), self.routes.as_slice());
        let front = old.iter().zip(new).take_while(same).count();
        let (old, new) = (old.get(front..).unwrap_or_default(), new.get(front..).unwrap_or_default());
        let behind = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        (old.get(..old.len() - behind).unwrap_or_default(), new.get(..new.len() - behind).unwrap_or_default())
    }

    /// What one route may hold of the memory: all of it where there is no other one.
    #[must_use]
    pub fn per_route_share(&self) -> f64 {
        if self.routes.len() > 1 { self.memory.per_route_share } else { 1.0 }
    }

    /// What is allowed, but can hardly be meant.
    fn weigh(&mut self) {
        for (who, key, share) in
            [("sender", "per_ip_share", self.memory.per_ip_share), ("route", "per_route_share", self.per_route_share())]
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a share of the budget is not larger than it; an octet more or less does not matter"
            )]
            let share = (self.memory.body_budget as f64 * share) as u64;
            if share < self.smtp.max_message_size {
                self.warn(
                    format!(
                        "one {who} may hold {} of memory (memory.body_budget x memory.{key}), so messages up to \
                         smtp.max_message_size {} can never be taken",
                        unit::show_size(share),
                        unit::show_size(self.smtp.max_message_size)
                    ),
                    "raise memory.body_budget",
                );
            }
        }
        let is_no_name = !self.smtp.hostname.contains('.') || self.smtp.hostname.parse::<std::net::Ipv4Addr>().is_ok();
        if is_no_name && !self.listens_on_loopback_only() {
            self.warn(
                format!("smtp.hostname is {:?}, which no other server can look up", self.smtp.hostname),
                "set smtp.hostname to the name that the MX record points to",
            );
        }
        if self.smtp.max_header_size > self.smtp.max_message_size {
            self.warn("smtp.max_header_size is larger than smtp.max_message_size, which ends first", "lower smtp.max_header_size");
        }
        let most = if self.routes.len() > 1 { (self.forward.workers / 2).max(1) } else { self.forward.workers };
        let sum: usize = self.routes.iter().map(|route| route.max_concurrency).sum();
        if sum > self.forward.workers && self.routes.len() > 1 {
            self.warn(
                format!(
                    "the routes' max_concurrency come to {sum}, but there are {} forwarders, so they cannot all have theirs at once",
                    self.forward.workers
                ),
                format!("raise forward.workers to {sum} or lower them"),
            );
        }
        // Taken out meanwhile, and not copied: there may be very many.
        let routes = std::mem::take(&mut self.routes);
        for route in &routes {
            let name = &route.name;
            if route.max_message_size.is_some_and(|octets| octets > self.smtp.max_message_size) {
                let what = format!("route {name} has a max_message_size above smtp.max_message_size, which ends first");
                self.warn(what, "raise smtp.max_message_size");
            }
            if route.max_concurrency > most {
                self.warn(
                    format!(
                        "route {name} may hold {} forwarders, but it gets {most} at most ({} of forward.workers {})",
                        route.max_concurrency,
                        if self.routes.len() > 1 { "half" } else { "all" },
                        self.forward.workers
                    ),
                    "raise forward.workers",
                );
            }
            let url = &route.target.url;
            let plain = url.scheme() == "http" && route.socket.is_none() && !is_this_machine(url);
            if plain && (route.authorization.is_some() || !route.target.headers.is_empty()) {
                self.warn(format!("route {name} sends credentials over http, where others can read them"), "use https");
            }
        }
        self.routes = routes;
    }

    fn warn(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.warnings.push(Warning::new(what, mend));
    }

    /// Nothing outside of this machine can connect.
    #[must_use]
    pub fn listens_on_loopback_only(&self) -> bool {
        self.smtp.listen.iter().all(|address| address.ip().to_canonical().is_loopback())
    }
}

fn is_this_machine(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
