//! The authorization callback at RCPT TO: may this recipient have mail from this sender? A few per route at once, and beside
//! the forwarders: a callback that hangs takes none.

use super::answers;
use super::line::Line;
use super::place::Place;
use super::question::{Authorization, Authorized};
use crate::config::{Route, Target};
use crate::http::{Answer, BODY_KEPT, Request, Wanted, same_origin};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use url::form_urlencoded;

/// All in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of an answer that may say where a message goes.
const ANSWER_MAX: usize = 32 * 1024;
/// Questions of one route at once.
pub(super) const QUESTIONS_MAX: usize = 32;

/// An open question of a route.
pub(super) struct Question(Arc<Line>);

impl Question {
    /// `None`: too many are open.
    pub(super) fn open(line: &Arc<Line>) -> Option<Self> {
        let room = |n: usize| (n < QUESTIONS_MAX).then_some(n + 1);
        line.questions.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self(Arc::clone(line)))
    }

    /// Asks the route's `authorize_url`; for how long the answer may be used again.
    pub(super) async fn ask(self, route: &Route, target: &Target, question: &Authorization) -> (Authorized, Option<Duration>) {
        let Some(url) = &route.authorize_url else { return (Authorized::Yes(None), None) };
        let json = url.path().ends_with(".json");
        let body = if json { question.json() } else { question.form() };
        let content_type = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        let mut headers = vec![("content-type", content_type)];
        let at_home = same_origin(&target.url, url) && route.socket == route.authorize_socket;
        if at_home {
            headers.extend(target.headers.iter().map(|(name, value)| (name.as_str(), value.expose())));
        }
        if let Some(authorization) = &route.authorize_authorization {
            headers.push(("authorization", authorization.expose()));
        }
        let request = Request {
            url,
            headers: &headers,
            len: u64::try_from(body.len()).unwrap_or(u64::MAX),
            body: &[body.as_bytes()],
            deadline: Instant::now() + TIMEOUT,
            socket: route.authorize_socket.as_deref(),
            at_home,
            redirected: false,
            only_public: false,
            wanted: if route.authorize_to.is_empty() { Wanted::Start } else { Wanted::Body(ANSWER_MAX) },
        };
        match self.0.client().post(&request).await {
            Ok(answer) => (judged(route, &answer), answer.cache_control.as_deref().and_then(answers::age)),
            Err(none) => {
                tracing::warn!(route = route.name, why = %none, "the authorization callback gave no answer");
                (Authorized::Unknown, None)
            }
        }
    }
}

fn judged(route: &Route, answer: &Answer) -> Authorized {
    let response = &answer.response;
    match response.status {
        200..=299 => {
            let body = response.json().filter(|_| !route.authorize_to.is_empty());
            if body.is_some() && !answer.is_whole {
                // It may have named another place than what is left of it says.
                tracing::warn!(
                    route = route.name,
                    "the authorization callback's answer did not all come in time, or is longer than {ANSWER_MAX} octets"
                );
                return Authorized::Unknown;
            }
            match body.map_or(Ok(None), |body| Place::read(route, body, answer.from_public)) {
                Ok(place) => Authorized::Yes(place.map(Arc::new)),
                Err(why) => {
                    tracing::warn!(route = route.name, why, "the authorization callback names a place where the message may not go");
                    Authorized::Unknown
                }
            }
        }
        // Applications say 401 to mean "no"; only with a challenge it is about us.
        status @ (401 | 407) if route.defer_statuses.contains(&status) && response.challenges => Authorized::Unknown,
        status @ 400..=499 if !matches!(status, 401 | 407) && route.defer_statuses.contains(&status) => Authorized::Unknown,
        400..=499 => Authorized::No(response.text().map(|text| text.chars().take(BODY_KEPT).collect())),
        _ => Authorized::Unknown,
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.0.questions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Authorization {
    fn form(&self) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("to", &self.to).append_pair("from", &self.from);
        if let Some(size) = self.size {
            form.append_pair("size", &size.to_string());
        }
        form.append_pair("remote_ip", &self.remote_ip).append_pair("helo_domain", &self.helo_domain);
        if let Some(spf) = &self.spf {
            form.append_pair("spf[result]", spf.result).append_pair("spf[domain]", &spf.domain);
        }
        form.finish()
    }

    fn json(&self) -> String {
        let text = |text: &str| Value::from(text);
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
        put("to", text(&self.to));
        put("from", text(&self.from));
        if let Some(size) = self.size {
            put("size", size.into());
        }
        put("remote_ip", text(&self.remote_ip));
        put("helo_domain", text(&self.helo_domain));
        if let Some(spf) = &self.spf {
            put("spf", serde_json::json!({ "result": spf.result, "domain": spf.domain }));
        }
        Value::Object(object).to_string()
    }
}
