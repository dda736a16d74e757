//! What is wrong comes first: whether mail is taken, which routes get no answer, and what stands until somebody mends it.

use super::{at, entries};
use crate::cli::client::Client;
use crate::cli::table::cut;
use crate::cli::terminal::{Paint, columns};
use serde_json::Value;

/// Routes that are named.
const NAMED: usize = 5;

/// What only `/notices` knows. Where it may not be asked, /stats alone has to do.
pub(super) fn ask(client: &Client) -> Value {
    client.get("/notices").ok().and_then(|answer| serde_json::from_str(&answer).ok()).unwrap_or_default()
}

/// The state in some words, and a line for each thing that is wrong.
pub(super) fn standing(stats: &Value, notices: &Value, paint: Paint) -> (String, String) {
    let refusal = notices.get("not_ready").and_then(Value::as_str).map(|why| why.strip_prefix("degraded: ").unwrap_or(why));
    let degraded = at(stats, &["store", "degraded"]).and_then(Value::as_bool).unwrap_or_default();
    let refusal = refusal.or_else(|| degraded.then_some("the store cannot be written"));
    let away: Vec<&str> = entries(stats, &["routes"])
        .filter(|(_, route)| route.get("breaker").and_then(Value::as_str).is_some_and(|breaker| matches!(breaker, "open" | "half_open")))
        .map(|(name, _)| name.as_str())
        .collect();
    let notices: Vec<&Value> = notices.get("notices").and_then(Value::as_array).into_iter().flatten().collect();
    let text = |notice: &Value, name: &str| notice.get(name).and_then(Value::as_str).map(crate::log::escaped).unwrap_or_default();
    let state = match (refusal, away.len(), notices.first()) {
        (Some("draining"), ..) => paint.wait("◐ draining: no new mail"),
        (Some(_), ..) => paint.bad("✕ not taking mail"),
        (None, 1.., _) => paint.wait(&format!("◐ {} of {} routes not answering", away.len(), entries(stats, &["routes"]).count())),
        (None, 0, Some(notice)) => paint.wait(&format!("◐ taking mail, but {}", text(notice, "brief"))),
        (None, 0, None) => paint.good("● taking mail"),
    };
    let mut lines: Vec<String> = Vec::new();
    if let Some(why) = refusal.filter(|why| *why != "draining") {
        lines.push(format!("{}; senders keep their mail; look with: mailsluice doctor", crate::log::escaped(why)));
    }
    if !away.is_empty() {
        let more = if away.len() > NAMED { format!(" and {} more", away.len() - NAMED) } else { String::new() };
        let names: Vec<_> = away.iter().take(NAMED).map(|name| crate::log::escaped(name)).collect();
        lines.push(format!("no answer for {}{more}; why: mailsluice report, mailsluice doctor", names.join(", ")));
    }
    lines.extend(notices.iter().map(|notice| text(notice, "what")));
    let width = columns().map_or(usize::MAX, |columns| columns.saturating_sub(13));
    (state, lines.iter().map(|line| format!("wrong        {}\n", paint.bad(&cut(line, width)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_worst_comes_first() {
        let stats =
            |breaker: &str| json!({"routes": {"a": {"breaker": "closed"}, "b": {"breaker": breaker}}, "store": {"degraded": false}});
        let notices = |reason: Option<&str>, what: &[&str]| {
            let notices: Vec<_> = what.iter().map(|what| json!({"what": format!("{what}: renew it"), "brief": what})).collect();
            json!({"not_ready": reason, "notices": notices})
        };
        let table = [
            (stats("closed"), Value::Null, "● taking mail", ""),
            (
                stats("closed"),
                notices(None, &["mx.pem expired"]),
                "◐ taking mail, but mx.pem expired",
                "wrong        mx.pem expired: renew it\n",
            ),
            (
                stats("open"),
                notices(None, &["mx.pem expired"]),
                "◐ 1 of 2 routes not answering",
                "wrong        no answer for b; why: mailsluice report, mailsluice doctor\nwrong        mx.pem expired: renew it\n",
            ),
            (
                stats("half_open"),
                notices(Some("degraded: no space left"), &[]),
                "✕ not taking mail",
                "wrong        no space left; senders keep their mail; look with: mailsluice doctor\n\
                 wrong        no answer for b; why: mailsluice report, mailsluice doctor\n",
            ),
            (stats("closed"), notices(Some("draining"), &[]), "◐ draining: no new mail", ""),
            (
                json!({"store": {"degraded": true}}),
                Value::Null,
                "✕ not taking mail",
                "wrong        the store cannot be written; senders keep their mail; look with: mailsluice doctor\n",
            ),
        ];
        for (stats, notices, state, lines) in table {
            assert_eq!(standing(&stats, &notices, Paint(false)), (state.to_owned(), lines.to_owned()), "{stats} {notices}");
        }
    }
}
