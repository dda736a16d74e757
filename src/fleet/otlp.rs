//! The sink that is an OpenTelemetry collector: records as logs, a minute's latency as exponential histograms, in OTLP's JSON over HTTP. A
//! collector knows no record by its id: what a kill leaves unsaid is brought again. Logs once when it goes and once when it is back.

use super::connect::{Trouble, tls, with_clock};
use super::course::Course;
use super::row::{name_of, redacted};
use super::shared::{STEP, Shared, make_way};
use super::shipper::{Answer, Batch, News};
use crate::http::retry_after;
use crate::record::{Outcome, Record};
use crate::stats::Minute;
use hdrhistogram::Histogram;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const NAME: &str = "otlp";
/// Of an answer; a partial success is a few words.
const ANSWER_MAX: usize = 64 << 10;
/// Four buckets to each doubling: 19 % wide, 128 of them for a microsecond to an hour.
const SCALE: i32 = 2;
/// Minutes in one request.
const MINUTES: usize = 70;
const DELTA: u8 = 1;

/// Brings records until it is stopped.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut this = Otlp { shared, course: Course::begin(shared, NAME, true) };
    while !shared.is_stopping() {
        this.turn().await;
        this.course.keep(false);
        this.course.show(true);
        shared.pause(this.course.shipper.wait()).await;
    }
    this.course.keep(true);
}

struct Otlp<'s> {
    shared: &'s Arc<Shared>,
    course: Course<'s>,
}

/// What a collector said.
enum Said {
    /// So many of it were refused for good.
    Taken(u64, String),
    Refused(String),
    Later(String, Option<Duration>),
}

impl Otlp<'_> {
    async fn turn(&mut self) {
        let batch = match self.course.next() {
            Ok(batch) => batch,
            Err(error) => return self.failed(&error.to_string(), None),
        };
        if let Some(batch) = batch {
            let body = self.logs(&batch);
            let said = self.post("v1/logs", body).await;
            self.heard(&batch, said);
        } else {
            self.bring_minutes().await;
        }
    }

    fn heard(&mut self, batch: &Batch, said: Result<Said, Trouble>) {
        let answer = match said {
            Ok(Said::Taken(0, _)) => Answer::Taken,
            Ok(Said::Taken(refused, why)) => {
                tracing::warn!(records = refused, "the collector refused a part of what it took: {why}");
                self.course.shipper.lost += refused;
                Answer::Taken
            }
            Ok(Said::Refused(why)) => {
                if batch.mended {
                    tracing::error!("the collector takes this record in no form: {why}");
                }
                Answer::Refused
            }
            Ok(Said::Later(why, asked)) => return self.failed(&why, asked),
            Err(trouble) => return self.failed(&trouble.to_string(), None),
        };
        if self.course.shipper.answered(batch, answer) == News::Back {
            self.say_back();
        }
    }

    async fn bring_minutes(&mut self) {
        let minutes = self.shared.stats.minutes.next(NAME, MINUTES);
        if minutes.is_empty() {
            return;
        }
        let taken = minutes.len();
        match self.post("v1/metrics", self.metrics(&minutes)).await {
            // What it does not want now it will not want later: they are a minute's latency.
            Ok(Said::Taken(..) | Said::Refused(_)) => {
                self.shared.stats.minutes.taken(NAME, taken);
                if self.course.shipper.reached() == News::Back {
                    self.say_back();
                }
            }
            Ok(Said::Later(why, asked)) => self.failed(&why, asked),
            Err(trouble) => self.failed(&trouble.to_string(), None),
        }
    }

    fn failed(&mut self, why: &str, asked: Option<Duration>) {
        if self.shared.is_stopping() {
            return;
        }
        if self.course.shipper.failed(asked) == News::Gone {
            tracing::warn!("the collector cannot be used: {why}; records wait in the store");
        }
        self.shared.stats.notices.set("collector", Some(format!("fleet.otlp: {why}")));
    }

    fn say_back(&self) {
        tracing::info!(behind = self.course.behind(), "the collector is back");
        self.shared.stats.notices.set("collector", None);
    }

    fn resource(&self) -> Value {
        json!({ "attributes": [
            text("service.name", "mailsluice"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &self.shared.box_id),
            text("host.name", &self.shared.config.name),
        ] })
    }

    fn logs(&self, batch: &Batch) -> String {
        let mut records = Vec::with_capacity(batch.records.len());
        for step in batch.records.chunks(STEP) {
            records.extend(step.iter().map(|record| log_record(&redacted(record, self.shared.config.redact))));
            make_way();
        }
        json!({ "resourceLogs": [{ "resource": self.resource(), "scopeLogs": [{ "scope": scope(), "logRecords": records }] }] }).to_string()
    }

    fn metrics(&self, minutes: &[Minute]) -> String {
        let points: Vec<_> = minutes.iter().filter_map(data_point).collect();
        json!({ "resourceMetrics": [{ "resource": self.resource(), "scopeMetrics": [{ "scope": scope(), "metrics": [{
            "name": "mailsluice.stage.duration",
            "description": "How long each stage of a message took.",
            "unit": "us",
            "exponentialHistogram": { "aggregationTemporality": DELTA, "dataPoints": points },
        }] }] }] })
        .to_string()
    }

    async fn post(&self, path: &str, body: String) -> Result<Said, Trouble> {
        let Some(base) = &self.shared.config.otlp else { return Err(Trouble::Stopped) };
        with_clock(async {
            let port = base.port_or_known_default().unwrap_or(80);
            let host = base.host_str().unwrap_or_default();
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(refused)?;
            if base.scheme() == "http" {
                return self.exchange(base, path, body, stream).await;
            }
            let name = rustls::pki_types::ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(refused)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&self.shared.config)?));
            self.exchange(base, path, body, connector.connect(name, stream).await.map_err(refused)?).await
        })
        .await
    }

    async fn exchange<S>(&self, base: &url::Url, path: &str, body: String, stream: S) -> Result<Said, Trouble>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(refused)?;
        let connection = tokio::spawn(connection);
        let mut request = hyper::Request::post(format!("{}/{path}", base.path().trim_end_matches('/')))
            .header(
                "host",
                base.host_str()
                    .map_or_else(String::new, |host| base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))),
            )
            .header("content-type", "application/json")
            .header("user-agent", concat!("mailsluice/", env!("CARGO_PKG_VERSION")))
            .header("connection", "close");
        for (name, value) in &self.shared.config.otlp_headers {
            request = request.header(name, value.expose());
        }
        let request = request.body(axum::body::Body::from(body)).map_err(refused)?;
        let response = sender.send_request(request).await.map_err(refused)?;
        let (head, body) = response.into_parts();
        // What is longer says nothing that we look at.
        let body: Bytes = axum::body::to_bytes(axum::body::Body::new(body), ANSWER_MAX).await.unwrap_or_default();
        connection.abort();
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        // By its own clock, where it says how late it is there.
        let now = text("date").and_then(retry_after::date).unwrap_or_else(jiff::Timestamp::now);
        let asked = text("retry-after").and_then(|value| retry_after::wait(value, now));
        Ok(said(head.status.as_u16(), asked, &body))
    }
}

fn refused(error: impl std::fmt::Display) -> Trouble {
    Trouble::Refused(error.to_string())
}

/// By the protocol only these four are worth another attempt of the same; what says "not you" or "not here" people have to mend.
fn said(status: u16, asked: Option<Duration>, body: &[u8]) -> Said {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = |value: &Value| value.as_str().unwrap_or_default().chars().take(200).collect::<String>();
    match status {
        200..=299 => {
            let partial = answer.get("partialSuccess").unwrap_or(&Value::Null);
            // Protocol buffers write 64 bits as text.
            let count = ["rejectedLogRecords", "rejectedDataPoints"].iter().filter_map(|name| partial.get(name));
            let count = count.filter_map(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok())).sum();
            Said::Taken(count, words(partial.get("errorMessage").unwrap_or(&Value::Null)))
        }
        400 | 413 | 415 | 422 => Said::Refused(format!("it answered {status}: {}", words(answer.get("message").unwrap_or(&Value::Null)))),
        _ => Said::Later(format!("it answered {status}"), asked),
    }
}

fn scope() -> Value {
    json!({ "name": "mailsluice", "version": env!("CARGO_PKG_VERSION") })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn log_record(record: &Record) -> Value {
    let nanoseconds = record.date.as_nanosecond().to_string();
    let (severity, name) = match record.outcome {
        Outcome::Delivered => (9, "INFO"),
        Outcome::Rejected | Outcome::Deferred => (13, "WARN"),
    };
    let recipients: Vec<_> = record.recipients.iter().map(|recipient| json!({ "stringValue": recipient })).collect();
    let response = &record.server_response;
    let mut attributes = vec![
        text("mailsluice.id", &record.id.to_string()),
        text("mailsluice.outcome", name_of(record.outcome)),
        text("mailsluice.route", &record.route),
        text("mailsluice.webhook_id", &record.webhook_id),
        text("mailsluice.sender", &record.sender),
        json!({ "key": "mailsluice.recipients", "value": { "arrayValue": { "values": recipients } } }),
        text("client.address", &record.sender_ip),
        number("mailsluice.response.status", response.status.into()),
        text("mailsluice.response.body", &response.body),
        number("mailsluice.size", record.size),
        number("mailsluice.processing_time_us", record.processing_time_us),
        number("mailsluice.queue_us", record.queue_us),
        number("mailsluice.forward_us", record.forward_us),
        number("mailsluice.store_us", record.store_us),
    ];
    let options = [
        ("mailsluice.message_id", &record.message_id),
        ("mailsluice.subject", &record.subject),
        ("mailsluice.tls", &record.tls),
        ("mailsluice.response.content_type", &response.content_type),
        ("mailsluice.response.retry_after", &response.retry_after),
    ];
    attributes.extend(options.into_iter().filter_map(|(key, value)| value.as_deref().map(|value| text(key, value))));
    json!({
        "timeUnixNano": nanoseconds,
        "observedTimeUnixNano": nanoseconds,
        "severityNumber": severity,
        "severityText": name,
        "body": { "stringValue": record.reply },
        "attributes": attributes,
    })
}

/// A minute of one stage.
fn data_point(minute: &Minute) -> Option<Value> {
    let histogram = crate::stats::hdr::decode(&minute.histogram)?;
    let (offset, counts) = exponential(&histogram);
    let end = minute.end.as_nanosecond();
    Some(json!({
        "attributes": [text("stage", minute.stage)],
        "startTimeUnixNano": (end - 60_000_000_000).to_string(),
        "timeUnixNano": end.to_string(),
        "count": histogram.len().to_string(),
        "sum": minute.sum_us,
        "min": histogram.min(),
        "max": histogram.max(),
        "scale": SCALE,
        "zeroCount": "0",
        "positive": { "offset": offset, "bucketCounts": counts.iter().map(u64::to_string).collect::<Vec<_>>() },
    }))
}

/// The first bucket's number, and the counts from there on; bucket n holds what is above base^n, up to base^(n+1).
fn exponential(histogram: &Histogram<u64>) -> (i32, Vec<u64>) {
    let mut buckets = std::collections::BTreeMap::<i32, u64>::new();
    for step in histogram.iter_recorded() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a logarithm of at most an hour")]
        let bucket =
            ((histogram.median_equivalent(step.value_iterated_to()).max(1) as f64).log2() * f64::from(1 << SCALE)).ceil() as i32 - 1;
        *buckets.entry(bucket).or_default() += step.count_at_value();
    }
    let (Some((first, _)), Some((last, _))) = (buckets.first_key_value(), buckets.last_key_value()) else { return (0, Vec::new()) };
    (*first, (*first..=*last).map(|bucket| buckets.get(&bucket).copied().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_lies_in_them() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        for value in [1, 2, 3, 4, 1000, 1000, 3_600_000_000] {
            histogram.record(value).unwrap();
        }
        let (offset, counts) = exponential(&histogram);
        assert_eq!(offset, -1);
        assert_eq!(counts.iter().sum::<u64>(), 7);
        let upper = |index: usize| 2_f64.powf(f64::from(offset + i32::try_from(index).unwrap() + 1) / f64::from(1 << SCALE));
        for (value, count) in [(1.0, 1), (2.0, 1), (4.0, 1), (1000.0, 2)] {
            let index = (0..counts.len()).find(|index| upper(*index) >= value).unwrap();
            assert_eq!(counts[index], count, "{value}");
        }
        assert!(counts.len() <= 160, "{}", counts.len());
    }

    #[test]
    fn what_a_collector_says() {
        let partial = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert!(matches!(said(200, None, partial), Said::Taken(3, why) if why == "too old"));
        assert!(matches!(said(200, None, b"{}"), Said::Taken(0, _)));
        assert!(matches!(said(200, None, b"not JSON"), Said::Taken(0, _)));
        assert!(matches!(said(400, None, b""), Said::Refused(_)));
        for status in [401, 404, 429, 500, 503] {
            assert!(matches!(said(status, Some(Duration::from_secs(3)), b""), Said::Later(_, Some(_))));
        }
    }
}
