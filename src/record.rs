//! The metadata record: the only thing that is kept of a message.

use serde::{Deserialize, Serialize};

/// A record's id: a ULID, 26 characters, rising in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u128);

/// What became of a message, as the endpoint said (or did not say).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Delivered,
    Rejected,
    Deferred,
}

/// The endpoint's answer as recorded; status 0 where there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerResponse {
    pub status: u16,
    /// At most the first 2 KiB, valid UTF-8.
    pub body: String,
    pub content_type: Option<String>,
    /// `Retry-After`, as the endpoint sent it; absent in JSON where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
}

/// One record, with the contract's field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: RecordId,
    /// When the end of data arrived; RFC 3339 with microseconds in JSON.
    #[serde(serialize_with = "microseconds")]
    pub date: jiff::Timestamp,
    pub sender_ip: String,
    pub message_id: Option<String>,
    pub sender: String,
    pub recipients: Vec<String>,
    pub subject: Option<String>,
    pub server_response: ServerResponse,
    pub processing_time_us: u64,
    pub queue_us: u64,
    pub forward_us: u64,
    pub store_us: u64,
    pub outcome: Outcome,
    pub reply: String,
    pub size: u64,
    pub tls: Option<String>,
    pub route: String,
    pub webhook_id: String,
}

fn microseconds<S: serde::Serializer>(date: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{date:.6}"))
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ulid::Ulid(self.0).to_string())
    }
}

impl std::str::FromStr for RecordId {
    type Err = ulid::DecodeError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        ulid::Ulid::from_string(s).map(|u| Self(u.0))
    }
}

impl Serialize for RecordId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_and_shapes_of_the_contract() {
        let record = Record {
            id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            date: "2026-11-24T20:00:00Z".parse().unwrap(),
            sender_ip: "192.0.2.1".into(),
            message_id: None,
            sender: String::new(),
            recipients: vec!["a@example.com".into()],
            subject: Some("Grüße".into()),
            server_response: ServerResponse { status: 0, body: String::new(), content_type: None, retry_after: None },
            processing_time_us: 4,
            queue_us: 1,
            forward_us: 2,
            store_us: 1,
            outcome: Outcome::Deferred,
            reply: "450 4.4.1 Later".into(),
            size: 7,
            tls: None,
            route: "tickets".into(),
            webhook_id: "w".into(),
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","date":"2026-11-24T20:00:00.000000Z","sender_ip":"192.0.2.1","message_id":null,"sender":"","recipients":["a@example.com"],"subject":"Grüße","server_response":{"status":0,"body":"","content_type":null},"processing_time_us":4,"queue_us":1,"forward_us":2,"store_us":1,"outcome":"deferred","reply":"450 4.4.1 Later","size":7,"tls":null,"route":"tickets","webhook_id":"w"}"#
        );
    }
}
