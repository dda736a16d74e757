//! Redirects by our own rule: the same POST again, at most three times, `http` and `https` only, never from `https` to `http`,
//! never from the open internet to an address of ours (server-side request forgery). Logs nothing.

use super::failure::{NoAnswer, Phase};
use super::response::{Answer, Response};
use url::Url;

/// Redirects followed for one message.
const HOPS_MAX: u32 = 3;

/// Asks, and asks again where the answer says so. Once a hop was on the open internet, no later one may be inside; `only_public`: not the
/// first either.
///
/// # Errors
/// There was no answer.
pub async fn follow(
    start: &Url,
    on_socket: bool,
    mut only_public: bool,
    mut ask: impl AsyncFnMut(&Url, bool) -> Result<Answer, NoAnswer>,
) -> Result<Response, NoAnswer> {
    let mut elsewhere = None;
    let mut last: Option<Response> = None;
    for hop in 0..=HOPS_MAX {
        let url = elsewhere.as_ref().unwrap_or(start);
        let answer = match (ask(url, only_public).await, last.take()) {
            (Err(none), Some(before)) if none.is_not_public() => return Ok(refused(before, &none.why)),
            (Err(none), _) => return Err(none),
            (Ok(answer), _) => answer,
        };
        let Answer { response, location, from_public, .. } = answer;
        let Some(location) = location.filter(|_| is_redirect(response.status)) else { return Ok(response) };
        only_public |= from_public;
        if hop == HOPS_MAX {
            return Ok(refused(response, "more than 3 redirects"));
        }
        // A socket has nothing beside it.
        if on_socket && (Url::parse(&location).is_ok() || location.starts_with("//")) {
            return Ok(refused(response, "redirect away from a socket"));
        }
        elsewhere = match target(url, &location) {
            Ok(target) => Some(target),
            Err(why) => return Ok(refused(response, why)),
        };
        last = Some(response);
    }
    // The loop returns in its last turn.
    Err(NoAnswer::new(Phase::Waiting, "more than 3 redirects"))
}

fn refused(response: Response, why: &str) -> Response {
    Response { redirect_refused: Some(why.to_owned()), ..response }
}

/// Does this status with a Location mean "the same request, there"? (303 means GET, and is any other status here.)
fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 307 | 308)
}

/// Where a redirect leads.
fn target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let mut to = from.join(location).map_err(|_| "redirect to a malformed location")?;
    to.set_fragment(None);
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err("redirect from https to http"),
        (_, "http" | "https") if to.host().is_none() => Err("redirect to a location without a host"),
        (_, "http" | "https") => {
            // Userinfo in a Location is nobody's credential of ours.
            if to.set_username("").is_err() || to.set_password(None).is_err() {
                return Err("redirect to a malformed location");
            }
            Ok(to)
        }
        _ => Err("redirect to another scheme than http or https"),
    }
}

/// Scheme, host and port alike: credentials, the route's headers and the signature may go along.
#[must_use]
pub fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

#[cfg(test)]
mod tests {
    use super::{Answer, NoAnswer, Response, Url, follow, same_origin, target};
    use std::time::Duration;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn targets() {
        let from = url("https://app.example/in?x=1");
        assert_eq!(target(&from, "/other").unwrap().as_str(), "https://app.example/other");
        assert_eq!(target(&from, "https://u:p@b.example/#f").unwrap().as_str(), "https://b.example/");
        assert!(target(&from, "http://app.example/in").is_err());
        assert!(target(&from, "ftp://app.example/in").is_err());
        assert!(target(&from, "https://[::1").is_err());
        assert!(target(&url("http://a.example/"), "https://a.example/").is_ok());
    }

    #[test]
    fn origins() {
        assert!(same_origin(&url("https://a.example/x"), &url("https://a.example:443/y")));
        assert!(!same_origin(&url("https://a.example/"), &url("https://a.example:444/")));
        assert!(!same_origin(&url("http://a.example/"), &url("https://a.example/")));
    }

    fn redirecting(to: &str, from_public: bool) -> Answer {
        let response = Response {
            status: 307,
            content_type: None,
            retry_after: None,
            challenges: false,
            body: String::new(),
            is_coded: false,
            redirect_refused: None,
            lost_credentials: false,
        };
        let (location, cache_control, is_whole) = (Some(to.to_owned()), None, true);
        Answer { response, location, cache_control, is_whole, from_public, waited: Duration::ZERO }
    }

    #[test]
    fn once_outside_never_inside_again() {
        let start = "http://10.0.0.1/".parse().unwrap();
        let mut rules = Vec::new();
        let answer = follow(&start, false, false, async |url: &Url, only_public| {
            rules.push((url.to_string(), only_public));
            match rules.len() {
                // Inside to inside, and to the outside, are free.
                1 => Ok(redirecting("http://10.0.0.2/", false)),
                2 => Ok(redirecting("http://198.51.100.1/", false)),
                3 => Ok(redirecting("http://169.254.169.254/", true)),
                _ => Err(NoAnswer::not_public()),
            }
        });
        let response = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer).unwrap();
        assert_eq!(rules.iter().map(|(_, only)| *only).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!(response.status, 307, "the redirect's own status");
        assert!(response.redirect_refused.is_some());
    }
}
