//! Answers in JSON and text, and what a request that cannot be answered gets: a status and one sentence. A store that does not
//! answer is logged at `warn`.

use crate::store::StoreError;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not answered; the sentence is shown to whoever asked.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Problem {
    pub(super) status: StatusCode,
    pub(super) sentence: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }
    pub(super) fn bad_request(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }
    pub(super) fn not_found(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, sentence)
    }
    pub(super) fn internal(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, sentence)
    }
    pub(super) fn unavailable(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NotAnAddress(_) => StatusCode::BAD_REQUEST,
            StoreError::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::Degraded(_) | StoreError::Closed => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Locked(_)
            | StoreError::Newer { .. }
            | StoreError::Io { .. }
            | StoreError::CannotRead { .. }
            | StoreError::Failed { .. }
            | StoreError::Unreadable(_)
            | StoreError::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status != StatusCode::BAD_REQUEST {
            tracing::warn!(%error, "the store did not answer the admin listener");
        }
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, json(&json!({ "error": self.sentence }))).into_response()
    }
}

pub(super) fn json(value: &Value) -> Response {
    json_text(format!("{value}\n"))
}

/// JSON that is rendered already, with its line end.
pub(super) fn json_text(text: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn plain(text: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

pub(super) async fn not_found() -> Problem {
    Problem::not_found("no such path")
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
}
