//! `[[route]]`: where mail for some recipients goes, and how.

use super::error::{ConfigError, Place, Warning};
use super::file::{Found, Keys, Section, quoted, unknown_word};
use super::template::{self, Marked, Template, UrlTemplate};
use super::{Attachments, AuthorizeTo, Format, Identity, Route, Scan, Secret, Target, Templates, Verify, header, limits, smtp};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

pub(super) const KEYS: Keys = Keys {
    texts: &[
        "name",
        "recipients",
        "url",
        "format",
        "attachments",
        "timeout",
        "signing_secret",
        "authorize_url",
        "authorize_to",
        "scan",
        "verify",
        "ca_certificate",
        "client_certificate",
        "client_key",
        "max_message_size",
    ],
    others: &["max_concurrency", "adaptive", "defer_statuses", "headers"],
};

/// How a template is mended.
const PLACEHOLDERS: &str = "write {recipient}, {local}, {tag} or {domain}, in the path and the query only; a brace itself is {{ or }}";

/// What is as it was is the same route: a reload looks at the others only.
pub(super) fn as_before(routes: Vec<Arc<Route>>, before: &[Arc<Route>]) -> Vec<Arc<Route>> {
    let known: HashMap<&str, &Arc<Route>> = before.iter().map(|route| (route.name.as_str(), route)).collect();
    let same = |route: &Arc<Route>| known.get(route.name.as_str()).filter(|old| **old == route).map(|old| Arc::clone(old));
    routes.into_iter().map(|route| same(&route).unwrap_or(route)).collect()
}

/// All routes of a file in their order, each under a name of its own.
pub(super) fn read_all(
    sections: &mut [Section<'_>],
    default_name: &str,
    hostname: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Arc<Route>>, ConfigError> {
    let mut names = HashSet::new();
    let mut routes = Vec::new();
    for (index, section) in sections.iter_mut().enumerate() {
        let name = name(section, &format!("{default_name}-{}", index + 1))?;
        if !names.insert(name.value.clone()) {
            return Err(name_taken(&section.place_of("name"), &name.value));
        }
        routes.push(Arc::new(read(section, name.value, hostname, warnings)?));
    }
    Ok(routes)
}

pub(super) fn name_taken(place: &Place, name: &str) -> ConfigError {
    place.invalid(format!("a route before this one is named {name:?} as well"), "give each route a name of its own")
}

fn read(section: &mut Section<'_>, name: String, hostname: &str, warnings: &mut Vec<Warning>) -> Result<Route, ConfigError> {
    let recipients = recipients(section)?;
    let Some(written) = section.secret("url")? else {
        return Err(section.missing("url", "\"https://app.example.com/inbound\""));
    };
    let (Endpoint { url, socket, authorization, written: written_url }, marked, url_template) = templated(section, &written)?;
    let format = section.choice(
        "format",
        &[
            ("json", Format::Json),
            ("multipart", Format::Multipart),
            ("raw", Format::Raw),
            ("rfc822", Format::Rfc822),
            ("rails", Format::Rails),
        ],
        Format::Json,
    )?;
    let attachments =
        section.choice("attachments", &[("embed", Attachments::Embed), ("metadata", Attachments::Metadata)], Attachments::Embed)?;
    let timeout = section.duration("timeout", limits::ROUTE_TIMEOUT)?;
    let max_concurrency = section.count("max_concurrency", limits::MAX_CONCURRENCY)?;
    let adaptive = section.flag("adaptive", true)?;
    let defer_statuses = section.numbers("defer_statuses", limits::DEFER_STATUSES, limits::DEFER_STATUSES_DEFAULT)?;
    let (headers, header_templates) = headers(section, authorization.is_some())?;
    let templates = (url_template.is_some() || header_templates.iter().any(Template::has_placeholders))
        .then(|| Box::new(Templates { url: url_template, headers: header_templates }));
    let signing_secrets = signing_secrets(section, &name, warnings)?;
    let (authorize_url, authorize_socket, authorize_authorization) = match section.secret("authorize_url")? {
        Some(written) => {
            let Endpoint { url, socket, authorization, .. } = fixed(section, "authorize_url", &written)?;
            (Some(url), socket, authorization)
        }
        None => (None, None, None),
    };
    let authorize_to = authorize_to(section)?;
    if !authorize_to.is_empty() && authorize_url.is_none() {
        let what = format!("route {name}: authorize_to without authorize_url: nobody is asked where mail goes");
        warnings.push(Warning::new(what, "set authorize_url, or leave authorize_to out"));
    }
    let scan = scan(section)?;
    let verify = verify(section)?;
    let ca_certificate = match section.text_if_present("ca_certificate")? {
        Some(found) => Some(smtp::path(&found)?),
        None => None,
    };
    let identity = identity(section)?;
    let max_message_size = section.size_if_given("max_message_size", limits::MAX_MESSAGE_SIZE)?;
    let written = Target { url, headers };
    let mut target = None;
    if let Some(templates) = &templates {
        let example = example(&name, &recipients, |recipient| templates.fill(&written, recipient, hostname), warnings);
        if let Some((recipient, of_example)) = example {
            if templates.url.is_some() {
                let url = shown_url(&marked, &written_url, authorization.is_some());
                section.show_example("url", &recipient, &marked.filled(&url, &recipient, hostname));
            }
            let shown = written.headers.iter().zip(&templates.headers).filter(|(_, template)| template.has_placeholders());
            let shown: Vec<_> = shown.map(|((name, _), template)| format!("{name}: {}", template.shown(&recipient, hostname))).collect();
            if !shown.is_empty() {
                section.show_example("headers", &recipient, &shown.join(", "));
            }
            target = Some(of_example);
        }
    }
    let target = target.unwrap_or(written);
    Ok(Route {
        name,
        recipients,
        target: Arc::new(target),
        templates,
        socket,
        authorization,
        format,
        attachments,
        timeout,
        max_concurrency,
        adaptive,
        defer_statuses,
        signing_secrets,
        authorize_url,
        authorize_socket,
        authorize_authorization,
        authorize_to,
        verify,
        scan,
        ca_certificate,
        identity,
        max_message_size,
    })
}

/// The first recipient that the templates have a place for, with that place. Recipients that never have one are warned of.
fn example(route: &str, globs: &[String], place: impl Fn(&str) -> Option<Target>, warnings: &mut Vec<Warning>) -> Option<(String, Target)> {
    let mut first = None;
    let mut refused = Vec::new();
    for glob in globs {
        match template::examples(glob).into_iter().find_map(|recipient| Some((place(&recipient)?, recipient))) {
            Some((target, recipient)) => first = first.or(Some((recipient, target))),
            None => refused.push(glob.as_str()),
        }
    }
    if let [glob, more @ ..] = refused.as_slice() {
        let more = if more.is_empty() { String::new() } else { format!(" and {} more of its recipients", more.len()) };
        let what = format!(
            "route {route}: mail to {glob:?}{more} is always refused (550): it would leave a part of the path of its url empty, or put a slash into it"
        );
        warnings.push(Warning::new(
            what,
            "leave out the placeholder that stands for nothing there, or give these recipients a route of their own",
        ));
    }
    first
}

fn name(section: &mut Section<'_>, default: &str) -> Result<Found<String>, ConfigError> {
    let name = section.text("name", default)?;
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    if name.value.is_empty() || name.value.len() > limits::ROUTE_NAME_OCTETS || !name.value.bytes().all(fits) {
        return Err(name.invalid(
            format!("{:?} is no route name", name.value),
            format!("write 1 to {} letters, digits, '-', '_' or '.'", limits::ROUTE_NAME_OCTETS),
        ));
    }
    Ok(name)
}

fn recipients(section: &mut Section<'_>) -> Result<Vec<String>, ConfigError> {
    let list = section.texts("recipients", &[])?;
    let mend = "write recipients = [\"*@example.com\"], or [\"*\"] for every address";
    if list.value.is_empty() {
        return Err(list.invalid("is missing or empty", mend));
    }
    for item in &list.value {
        if item.value.is_empty() || item.value.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(item.invalid(format!("{:?} can match no address", item.value), mend));
        }
    }
    Ok(list.value.into_iter().map(|item| item.value).collect())
}

/// Both or neither.
pub(super) fn identity(section: &mut Section<'_>) -> Result<Option<Identity>, ConfigError> {
    let certificate = section.text_if_present("client_certificate")?.filter(|found| !found.value.is_empty());
    let key = section.text_if_present("client_key")?.filter(|found| !found.value.is_empty());
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate: smtp::path(&certificate)?, private_key: smtp::path(&key)? })),
        (None, None) => Ok(None),
        (Some(alone), None) => Err(alone.invalid("has no key beside it", "name the key's PEM file as client_key")),
        (None, Some(alone)) => Err(alone.invalid("has no certificate beside it", "name the certificate's PEM file as client_certificate")),
    }
}

/// Where to ask.
pub(super) struct Endpoint {
    /// Without its userinfo.
    pub(super) url: Url,
    pub(super) socket: Option<PathBuf>,
    /// The `Authorization` value made of the userinfo.
    pub(super) authorization: Option<Secret>,
    /// As it would be written, without its userinfo.
    written: String,
}

/// The route's `url`, whose path and query may have placeholders.
fn templated(section: &mut Section<'_>, written: &Found<String>) -> Result<(Endpoint, Marked, Option<UrlTemplate>), ConfigError> {
    let text = written.value.as_str();
    let behind = if text.starts_with("unix:") {
        text.rfind(":/").map(|at| at + 1)
    } else {
        text.find("://").and_then(|at| Some(at + 3 + text.get(at + 3..)?.find(['/', '\\', '?', '#'])?))
    };
    let (before, behind) = behind.and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""));
    let marked = Marked::of(before, behind).map_err(|what| written.invalid(what, PLACEHOLDERS))?;
    let found = Found { value: marked.text.clone(), place: written.place.clone() };
    let endpoint = endpoint(&found)?;
    section.show("url", quoted(&marked.unmarked(&shown_url(&marked, &endpoint.written, endpoint.authorization.is_some()))));
    let template = marked.url(&endpoint.url).map_err(|what| written.invalid(what, "write %25 for a percent sign"))?;
    Ok((endpoint, marked, template))
}

fn shown_url(marked: &Marked, url: &str, has_userinfo: bool) -> String {
    shown(url, has_userinfo, |value| marked.is_placeholder(value))
}

/// A URL without placeholders.
pub(super) fn fixed(section: &mut Section<'_>, key: &'static str, written: &Found<String>) -> Result<Endpoint, ConfigError> {
    let endpoint = endpoint(written)?;
    section.show(key, quoted(&shown(&endpoint.written, endpoint.authorization.is_some(), |_| false)));
    Ok(endpoint)
}

fn authorize_to(section: &mut Section<'_>) -> Result<Vec<AuthorizeTo>, ConfigError> {
    let mend =
        "write origins, as in [\"https://tenants.example.com\"], \"self\" for the url's own, \"https://*\" for any at a public address";
    let mut origins = Vec::new();
    for found in section.texts("authorize_to", &[])?.value {
        origins.push(match found.value.as_str() {
            "self" => AuthorizeTo::Own,
            "https://*" => AuthorizeTo::AnyPublic,
            text => {
                let url = Url::parse(text).map_err(|error| found.invalid(format!("{text:?} is no origin: {error}"), mend))?;
                let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
                if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || url.path() != "/" || !bare || text.contains('*') {
                    return Err(found.invalid("is no origin: scheme, host and port alone", mend));
                }
                AuthorizeTo::Origin(url)
            }
        });
    }
    Ok(origins)
}

/// `unix:PATH:/…`: the path of the socket ends at the last `:/`.
fn on_socket(found: &Found<String>, rest: &str) -> Result<Endpoint, ConfigError> {
    let mend = "write unix:/run/app.sock:/inbound";
    let (path, target) = rest.rfind(":/").and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ":/"));
    if !path.starts_with('/') {
        return Err(found.invalid("the socket's path does not begin with /", mend));
    }
    if path.len() > limits::SOCKET_PATH_OCTETS || path.contains('\0') {
        return Err(found.invalid(format!("the socket's path is longer than {} octets", limits::SOCKET_PATH_OCTETS), mend));
    }
    let url = Url::parse(&format!("http://localhost{}", target.trim_start_matches(':')));
    let url = url.map_err(|error| found.invalid(format!("is no URL: {error}"), mend))?;
    if url.fragment().is_some() {
        return Err(found.invalid("has a fragment, which is never sent", "leave out the part from # on"));
    }
    Ok(Endpoint { url, socket: Some(PathBuf::from(path)), authorization: None, written: found.value.clone() })
}

fn endpoint(found: &Found<String>) -> Result<Endpoint, ConfigError> {
    if let Some(rest) = found.value.strip_prefix("unix:") {
        return on_socket(found, rest);
    }
    // The text may hold a password, so no error shows it.
    let mend = "write https://host/path";
    let mut url = Url::parse(&found.value).map_err(|error| found.invalid(format!("is no URL: {error}"), mend))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(
            found.invalid(format!("the scheme is {:?}", url.scheme()), "write an http:// or https:// URL, or unix:/run/app.sock:/inbound")
        );
    }
    if url.fragment().is_some() {
        return Err(found.invalid("has a fragment, which is never sent", "leave out the part from # on (write %23 for a # in a password)"));
    }
    let userinfo = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let mut user = percent_decoded(url.username());
        // RFC 7617 2: the first colon ends the user-id.
        if user.contains(&b':') {
            return Err(found.invalid("the user name has a colon, which Basic authentication cannot carry", "choose another user name"));
        }
        user.push(b':');
        user.extend(percent_decoded(url.password().unwrap_or_default()));
        Some(Secret::new(format!("Basic {}", BASE64_STANDARD.encode(user))))
    };
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return Err(found.invalid("has no host", mend));
    }
    let written = url.as_str().to_owned();
    Ok(Endpoint { url, socket: None, authorization: userinfo, written })
}

/// What `check` prints: the names of a query's values, but neither these nor the userinfo, which are where tokens stand.
fn shown(url: &str, has_userinfo: bool, is_open: impl Fn(&str) -> bool) -> String {
    let (before, query) = url.split_once('?').unwrap_or((url, ""));
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if !value.is_empty() && !is_open(value) => format!("{name}=(secret)"),
        None if !pair.is_empty() && !is_open(pair) => "(secret)".to_owned(),
        Some(_) | None => pair.to_owned(),
    };
    let query: Vec<_> = query.split('&').map(hidden).collect();
    let mut shown = match before.split_once("://") {
        Some((scheme, rest)) if has_userinfo => format!("{scheme}://(secret)@{rest}"),
        Some(_) | None => before.to_owned(),
    };
    if url.contains('?') {
        shown.push('?');
        shown.push_str(&query.join("&"));
    }
    shown
}

/// RFC 3986 2.1; a `%` without two digits behind it stands for itself.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, behind)) = rest.split_first() {
        let escaped = match (octet, behind) {
            (b'%', [high, low, ..]) => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        match escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(decoded) => {
                octets.push(decoded);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                octets.push(octet);
                rest = behind;
            }
        }
    }
    octets
}

type Headers = (Vec<(String, Secret)>, Vec<Template>);

fn headers(section: &mut Section<'_>, has_userinfo: bool) -> Result<Headers, ConfigError> {
    let mut headers: Vec<(String, Secret)> = Vec::new();
    let mut templates = Vec::new();
    for (name, value) in header_fields(section, "headers", has_userinfo)? {
        let template = Template::parse(&value.value).map_err(|what| value.invalid(what, PLACEHOLDERS))?;
        headers.push((name, Secret::new(template.literal())));
        templates.push(template);
    }
    Ok((headers, templates))
}

/// Fields that a request may have beside ours.
pub(super) fn header_fields(
    section: &mut Section<'_>,
    key: &'static str,
    has_userinfo: bool,
) -> Result<Vec<(String, Found<String>)>, ConfigError> {
    let mut headers: Vec<(String, Found<String>)> = Vec::new();
    for (name, value) in section.free_texts(key)? {
        if let Some((what, mend)) = header::fault(&name, &value.value, has_userinfo) {
            return Err(value.invalid(what, mend));
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            return Err(value.invalid("this header is there twice", "keep one of them"));
        }
        headers.push((name, value));
    }
    Ok(headers)
}

fn signing_secrets(section: &mut Section<'_>, route: &str, warnings: &mut Vec<Warning>) -> Result<Vec<Secret>, ConfigError> {
    let mut secrets = Vec::new();
    for found in section.secrets("signing_secret")? {
        let mend = "write whsec_ and base64, as made by: echo whsec_$(openssl rand -base64 32)";
        let Some(encoded) = found.value.strip_prefix("whsec_") else {
            return Err(found.invalid("a secret does not start with whsec_", mend));
        };
        let Ok(key) = BASE64_STANDARD.decode(encoded) else {
            return Err(found.invalid("a secret is not base64 behind whsec_", mend));
        };
        if key.is_empty() {
            return Err(found.invalid("a secret is empty behind whsec_", mend));
        }
        if key.len() < limits::SIGNING_SECRET_OCTETS {
            let what = format!(
                "{}: a secret of route {route} has {} octets, Standard Webhooks asks for at least {}",
                found.place,
                key.len(),
                limits::SIGNING_SECRET_OCTETS
            );
            warnings.push(Warning::new(what, mend));
        }
        secrets.push(Secret::new(found.value));
    }
    Ok(secrets)
}

fn scan(section: &mut Section<'_>) -> Result<Option<Scan>, ConfigError> {
    let Some(written) = section.secret("scan")?.filter(|found| !found.value.is_empty()) else { return Ok(None) };
    let Endpoint { url, socket, authorization, .. } = fixed(section, "scan", &written)?;
    Ok(Some(Scan { url, socket, authorization }))
}

fn verify(section: &mut Section<'_>) -> Result<Verify, ConfigError> {
    let mut verify = Verify::default();
    for found in section.texts("verify", &[])?.value {
        match found.value.as_str() {
            "spf" => verify.spf = true,
            "dkim" => verify.dkim = true,
            "dmarc" => verify.dmarc = true,
            other => return Err(unknown_word(&found.place, other, &["spf", "dkim", "dmarc"])),
        }
    }
    Ok(verify)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding() {
        let table: &[(&str, &[u8])] = &[
            ("", b""),
            ("plain", b"plain"),
            ("se%40cret", b"se@cret"),
            ("%e4%C3", b"\xe4\xc3"),
            ("100%", b"100%"),
            ("%4", b"%4"),
            ("%zz", b"%zz"),
        ];
        for (text, expected) in table {
            assert_eq!(percent_decoded(text), *expected, "{text:?}");
        }
    }
}
