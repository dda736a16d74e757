//! A configuration for a test: the contract's keys, set one by one.

use super::endpoint::Endpoint;
use toml::{Table, Value};

/// A configuration under construction. Its SMTP port can be had again after a restart.
#[derive(Clone)]
pub(crate) struct Config(Table);

impl Config {
    /// Everything but a route.
    pub(crate) fn without_routes() -> Self {
        let mut config = Self(Table::new());
        for (key, value) in [
            ("smtp.listen", Value::from(vec![format!("127.0.0.1:{}", super::port::free())])),
            ("smtp.hostname", "mx.test".into()),
            ("smtp.threads", 2.into()),
            ("admin.listen", "127.0.0.1:0".into()),
            ("log.format", "json".into()),
            ("log.level", "info".into()),
            ("forward.workers", 64.into()),
        ] {
            config.put(key, value);
        }
        config
    }

    /// One route, `all`, that takes every recipient to this endpoint as `rfc822`.
    pub(crate) fn to(endpoint: &Endpoint) -> Self {
        Self::without_routes().route("all", &["*"], &endpoint.url("/in")).of_route("format", "rfc822").of_route("timeout", "20s")
    }

    pub(crate) fn parse(text: &str) -> Self {
        Self(text.parse().unwrap())
    }

    /// Sets `section.key`, or deeper.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.put(path, value.into());
        self
    }

    pub(crate) fn route(mut self, name: &str, recipients: &[&str], url: &str) -> Self {
        let mut route = Table::new();
        route.insert("name".into(), name.into());
        route.insert("recipients".into(), Value::from(recipients.to_vec()));
        route.insert("url".into(), url.into());
        let routes = self.0.entry("route").or_insert_with(|| Value::Array(Vec::new()));
        routes.as_array_mut().unwrap().push(Value::Table(route));
        self
    }

    /// The text of a file for `include`.
    pub(crate) fn routes_only(name: &str, recipients: &[&str], url: &str) -> String {
        Self(Table::new()).route(name, recipients, url).text()
    }

    /// The route added last is matched first.
    pub(crate) fn reversed_routes(mut self) -> Self {
        self.0.get_mut("route").expect("a route first").as_array_mut().unwrap().reverse();
        self
    }

    /// Sets a key of the route added last.
    pub(crate) fn of_route(mut self, key: &str, value: impl Into<Value>) -> Self {
        let routes = self.0.get_mut("route").expect("a route first").as_array_mut().unwrap();
        routes.last_mut().unwrap().as_table_mut().unwrap().insert(key.into(), value.into());
        self
    }

    /// The key of the route added last stands in a file.
    pub(crate) fn of_route_file(mut self, key: &str, file: &std::path::Path) -> Self {
        let routes = self.0.get_mut("route").expect("a route first").as_array_mut().unwrap();
        routes.last_mut().unwrap().as_table_mut().unwrap().remove(key);
        self.of_route(&format!("{key}_file"), file.to_str().unwrap())
    }

    pub(crate) fn is_set(&self, path: &str) -> bool {
        let mut parts = path.split('.');
        let first = self.0.get(parts.next().unwrap());
        parts.fold(first, |at, part| at.and_then(|value| value.get(part))).is_some()
    }

    fn put(&mut self, path: &str, value: Value) {
        let mut table = &mut self.0;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.into(), value);
                return;
            }
            table = table.entry(part).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap();
        }
    }

    pub(crate) fn text(&self) -> String {
        toml::to_string(&self.0).unwrap()
    }
}
