//! Latency of all boxes: each minute's histograms are in the database, and add up over boxes and minutes. Logs nothing.

use super::asking::Fleet;
use super::connect::Trouble;
use crate::stats::{Minute, Stage, hdr};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// Minutes, boxes and stages that one answer adds up: a week of three boxes.
const ROWS_MAX: i64 = 250_000;

/// One stage over all boxes.
pub struct StageLatency {
    pub stage: &'static str,
    pub histogram: Histogram<u64>,
}

impl Fleet {
    pub async fn latency(&self, since: jiff::Timestamp) -> Result<Vec<StageLatency>, Trouble> {
        self.ask(move |asked| async move {
            let sql = "SELECT stage, encode(histogram, 'base64') FROM mailsluice.latency WHERE minute >= $1::text::timestamptz AND route = '' \
                ORDER BY minute DESC LIMIT $2";
            let mut sums = BTreeMap::<String, Histogram<u64>>::new();
            for row in asked.query(sql, &[&since.to_string(), &ROWS_MAX]).await? {
                let (stage, text): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                // The server breaks base64 into lines.
                let Some(minute) = hdr::decode(&text.replace('\n', "")) else { continue };
                match sums.get_mut(&stage) {
                    None => drop(sums.insert(stage, minute)),
                    // Those of one precision always add up; a histogram of another is no minute of ours.
                    Some(sum) => sum.add(minute).unwrap_or_default(),
                }
            }
            let of = |stage: Stage| sums.get(stage.name()).map(|sum| StageLatency { stage: stage.name(), histogram: sum.clone() });
            Ok(Stage::ALL.into_iter().filter_map(of).collect())
        })
        .await
    }
}

/// Brings minutes; one that is there already is passed over.
pub(super) async fn bring(client: &Client, box_id: &str, minutes: &[Minute]) -> Result<(), Trouble> {
    let ends: Vec<i64> = minutes.iter().map(|minute| minute.end.as_second()).collect();
    let stages: Vec<&str> = minutes.iter().map(|minute| minute.stage).collect();
    let histograms: Vec<&str> = minutes.iter().map(|minute| minute.histogram.as_str()).collect();
    let sql = "INSERT INTO mailsluice.latency (minute, box, stage, histogram) \
        SELECT to_timestamp(m), $1::text::uuid, s, decode(h, 'base64') FROM unnest($2::bigint[], $3::text[], $4::text[]) AS t(m, s, h) \
        ON CONFLICT DO NOTHING";
    Ok(client.execute(sql, &[&box_id, &ends, &stages, &histograms]).await.map(drop)?)
}

/// As `/stats` shows a window, by stages.
#[must_use]
pub fn summary(stages: &[StageLatency]) -> Value {
    let window = |histogram: &Histogram<u64>| {
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|quantile| histogram.value_at_quantile(quantile));
        json!({ "count": histogram.len(), "mean_us": (histogram.mean() * 10.0).round() / 10.0, "p50_us": p50, "p90_us": p90, "p99_us": p99,
            "p999_us": p999, "max_us": histogram.max() })
    };
    let each = stages.iter().map(|stage| (stage.stage.to_owned(), json!({ "total": window(&stage.histogram) })));
    Value::Object(each.collect::<Map<_, _>>())
}
