//! Where one message goes, when the authorization callback says so: read from its answer, within what `authorize_to` allows. Pure.

use crate::config::{AuthorizeTo, Route, Secret, header_fault};
use crate::http::{self, same_origin};
use serde_json::{Map, Value};
use url::Url;

/// Of an answer's headers, names and values together.
const HEADERS_MAX: usize = 32;
const HEADERS_OCTETS: usize = 8 * 1024;

/// An endpoint that the configuration does not name by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub url: Url,
    /// For its origin only.
    pub headers: Vec<(String, Secret)>,
    /// The origin is none of the configuration's.
    pub foreign: bool,
    /// No connection to a loopback, link-local or private address.
    pub only_public: bool,
}

impl Place {
    /// What a 2xx of type `application/json` says. `None`: it names no place. `from_public`: it came from the open internet, and what holds
    /// for redirects from there holds for it.
    ///
    /// # Errors
    /// It names one that is not allowed.
    pub(super) fn read(route: &Route, body: &str, from_public: bool) -> Result<Option<Self>, String> {
        let Ok(Value::Object(mut said)) = serde_json::from_str::<Value>(body) else { return Ok(None) };
        let text = match said.get("url") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err("the url is no text".to_owned()),
        };
        let mut url = Url::parse(text).map_err(|error| format!("no url: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(format!("the scheme is {:?}", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the url has userinfo".to_owned());
        }
        url.set_fragment(None);
        let Some(rule) = rule(route, &url) else {
            return Err(format!("{} is not in authorize_to", url.origin().ascii_serialization()));
        };
        let only_public = from_public || *rule == AuthorizeTo::AnyPublic;
        if only_public && http::is_inner(&url) {
            return Err(format!("{} is a loopback, link-local or private address", url.origin().ascii_serialization()));
        }
        let headers = match said.get_mut("headers").map(Value::take) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(fields)) => headers(route, &url, fields)?,
            Some(_) => return Err("the headers are no object".to_owned()),
        };
        Ok(Some(Self { url, headers, foreign: *rule == AuthorizeTo::AnyPublic, only_public }))
    }

    /// It is at the origin of the route's own url: what goes there may come along.
    pub(super) fn is_at_home(&self, route: &Route) -> bool {
        is_own(route, &self.url)
    }

    /// Octets in memory, about.
    pub(super) fn octets(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| name.len() + value.expose().len() + 64);
        self.url.as_str().len() + fields.sum::<usize>() + 256
    }
}

fn is_own(route: &Route, url: &Url) -> bool {
    route.socket.is_none() && same_origin(&route.target.url, url)
}

/// The first that allows it; an origin by its name before any public one.
fn rule<'r>(route: &'r Route, url: &Url) -> Option<&'r AuthorizeTo> {
    let named = route.authorize_to.iter().find(|rule| match rule {
        AuthorizeTo::Own => is_own(route, url),
        AuthorizeTo::Origin(origin) => same_origin(origin, url),
        AuthorizeTo::AnyPublic => false,
    });
    let any = || route.authorize_to.iter().find(|rule| **rule == AuthorizeTo::AnyPublic && url.scheme() == "https");
    named.or_else(any)
}

/// By the rules of the file's own.
fn headers(route: &Route, url: &Url, fields: Map<String, Value>) -> Result<Vec<(String, Secret)>, String> {
    if fields.len() > HEADERS_MAX {
        return Err(format!("more than {HEADERS_MAX} headers"));
    }
    let mut headers: Vec<(String, Secret)> = Vec::new();
    let mut octets = 0;
    for (name, value) in fields {
        let Value::String(value) = value else { return Err(format!("the header {name:?} is no text")) };
        octets += name.len() + value.len();
        let userinfo = is_own(route, url) && route.authorization.is_some();
        if let Some((what, _)) = header_fault(&name, &value, userinfo) {
            return Err(format!("the header {name:?}: {what}"));
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            return Err(format!("the header {name:?} is there twice"));
        }
        headers.push((name, Secret::new(value)));
    }
    if octets > HEADERS_OCTETS {
        return Err(format!("more than {HEADERS_OCTETS} octets of headers"));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::Place;
    use crate::config::{Config, Origin, Route};
    use std::sync::Arc;

    fn route(more: &str) -> Arc<Route> {
        let text = format!(
            "[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"https://u:p@app.example/in\"\nauthorize_url = \"https://app.example/a\"\n{more}\n"
        );
        Arc::clone(&Config::parse(Origin::File("test.toml".into()), &text).unwrap().routes[0])
    }

    #[test]
    fn places_and_who_allows_them() {
        let own = route("authorize_to = [\"self\"]");
        let named = route("authorize_to = [\"http://10.0.0.5:8080\", \"https://B.example\"]");
        let any = route("authorize_to = [\"https://*\", \"self\"]");
        // The route, whether the answer came from outside, its url; whether it goes there, and only to public addresses.
        let table: &[(&Route, bool, &str, Option<bool>)] = &[
            (&own, false, "https://app.example/t/1?x=y", Some(false)),
            (&own, false, "https://app.example:443/", Some(false)),
            (&own, true, "https://app.example/t/1", Some(true)),
            (&own, false, "http://app.example/t/1", None),
            (&own, false, "https://app.example:444/", None),
            (&own, false, "https://other.example/", None),
            (&named, false, "http://10.0.0.5:8080/x", Some(false)),
            (&named, true, "http://10.0.0.5:8080/x", None),
            (&named, false, "https://b.example/x", Some(false)),
            (&named, false, "https://app.example/", None),
            (&named, false, "http://10.0.0.5/x", None),
            (&any, false, "https://anybody.example:8443/", Some(true)),
            (&any, false, "https://app.example/", Some(false)),
            (&any, false, "http://anybody.example/", None),
            (&any, false, "https://10.0.0.1/", None),
            (&any, false, "https://[::1]/", None),
            (&any, false, "https://localhost/", None),
            (&any, false, "https://[::ffff:169.254.169.254]/", None),
            (&any, false, "https://u@anybody.example/", None),
            (&any, false, "https://:p@anybody.example/", None),
            (&any, false, "ftp://anybody.example/", None),
            (&any, false, "unix:/run/app.sock:/", None),
            (&any, false, "/in", None),
            (&any, false, "", None),
        ];
        for (route, from_public, url, expected) in table {
            let said = serde_json::json!({ "url": url }).to_string();
            let place = Place::read(route, &said, *from_public).ok().map(Option::unwrap);
            assert_eq!(place.map(|place| place.only_public), *expected, "{url}");
        }
    }

    #[test]
    fn what_names_no_place_and_what_is_not_allowed() {
        let route = route("authorize_to = [\"self\", \"https://b.example\"]");
        let read = |body: &str| Place::read(&route, body, false);
        for none in ["", "no", "[]", "1", "{\"url\": ", "{}", "{\"url\": null}", "{\"headers\": {\"X\": \"y\"}}"] {
            assert_eq!(read(none), Ok(None), "{none}");
        }
        for url in ["1", "[\"https://app.example/\"]", "{}", "true"] {
            assert!(read(&format!("{{\"url\": {url}}}")).is_err(), "{url}");
        }
        let with = |url: &str, headers: serde_json::Value| read(&serde_json::json!({ "url": url, "headers": headers }).to_string());
        let (home, other) = ("https://app.example/t", "https://b.example/t");
        for headers in [
            serde_json::json!([]),
            serde_json::json!({ "X": 1 }),
            serde_json::json!({ "X": null }),
            serde_json::json!({ "X": "a\r\nY: b" }),
            serde_json::json!({ "X": "\u{e9}" }),
            serde_json::json!({ "X": " a" }),
            serde_json::json!({ "X Y": "a" }),
            serde_json::json!({ "": "a" }),
            serde_json::json!({ "Host": "a" }),
            serde_json::json!({ "Webhook-Signature": "a" }),
            serde_json::json!({ "mailsluice-helo": "a" }),
            serde_json::json!({ "X": "a", "x": "b" }),
            serde_json::json!({ "X": "a".repeat(9000) }),
            serde_json::Value::Object((0..33).map(|n| (format!("X-{n}"), "a".into())).collect()),
        ] {
            assert!(with(other, headers.clone()).is_err(), "{headers}");
        }
        // The credentials of the route's url go there as well.
        assert!(with(home, serde_json::json!({ "Authorization": "Bearer x" })).is_err());
        assert!(with(other, serde_json::json!({ "Authorization": "Bearer x" })).is_ok());
        let many = serde_json::Value::Object((0..32).map(|n| (format!("X-{n}"), "a".repeat(200).into())).collect());
        assert_eq!(with(other, many).unwrap().unwrap().headers.len(), 32);
        assert_eq!(with(&format!("{home}#x"), serde_json::json!({})).unwrap().unwrap().url.as_str(), home);
    }
}
