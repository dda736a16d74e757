//! The authorization callback at RCPT TO: may this recipient have mail from this sender? On threads of its own, a few per
//! route, so that a callback that hangs takes no forwarder.

use super::lane::Lane;
use super::request::{Post, Source, post};
use super::{Authorization, Authorized, Refused, redirect};
use crate::config::Route;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use url::form_urlencoded;

/// All in all, waiting for a thread included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Questions of one route at once.
const QUESTIONS_MAX: usize = 32;
/// Threads for all routes' questions.
pub(super) const THREADS_MAX: usize = 128;

/// A question on its way.
pub(super) struct Call {
    route: Arc<Route>,
    question: Authorization,
    asked: Instant,
    answer: oneshot::Sender<Authorized>,
    open: Open,
}

/// Counts an open question of a lane.
struct Open(Arc<Lane>);

impl Open {
    fn count(&self) -> &AtomicUsize {
        &self.0.questions
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::AcqRel);
    }
}

impl Call {
    pub(super) fn new(
        route: &Arc<Route>,
        lane: &Arc<Lane>,
        question: Authorization,
    ) -> Result<(Self, oneshot::Receiver<Authorized>), Refused> {
        let room = |n: usize| (n < QUESTIONS_MAX).then_some(n + 1);
        if lane.questions.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return Err(Refused::QueueFull);
        }
        let (answer, receiver) = oneshot::channel();
        let open = Open(Arc::clone(lane));
        Ok((Self { route: Arc::clone(route), question, asked: Instant::now(), answer, open }, receiver))
    }

    /// Asks and answers; on a callback thread.
    pub(super) fn ask(self) {
        let verdict = self.verdict();
        // The client may be gone.
        drop(self.answer.send(verdict));
        drop(self.open);
    }

    fn verdict(&self) -> Authorized {
        let Some(url) = &self.route.authorize_url else { return Authorized::Yes };
        let json = url.path().ends_with(".json");
        let body = if json { self.question.json() } else { self.question.form() };
        let content_type = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        let mut headers = vec![("content-type", content_type)];
        if redirect::same_origin(&self.route.url, url) {
            headers.extend(self.route.headers.iter().map(|(name, value)| (name.as_str(), value.expose())));
        }
        if let Some(authorization) = &self.route.authorize_authorization {
            headers.push(("authorization", authorization.expose()));
        }
        let request = Post {
            url,
            headers: &headers,
            len: u64::try_from(body.len()).unwrap_or(u64::MAX),
            body: Source::Whole(body.as_bytes()),
            deadline: self.asked + TIMEOUT,
            only_public: false,
        };
        match post(&self.open.0.agent(), &request) {
            Ok(answer) => match answer.response.status {
                200..=299 => Authorized::Yes,
                400..=499 => {
                    let plain = answer.response.content_type.as_deref().is_some_and(is_plain_text);
                    Authorized::No(Some(answer.response.body).filter(|text| plain && !text.trim().is_empty()))
                }
                _ => Authorized::Unknown,
            },
            Err(super::NoAnswer::NotReached(why) | super::NoAnswer::Broken(why)) => {
                tracing::warn!(route = self.route.name, why, "the authorization callback gave no answer");
                Authorized::Unknown
            }
        }
    }
}

fn is_plain_text(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/plain"))
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
