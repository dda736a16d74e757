//! `/routes`, of the page: each route in the order of the file, where its mail goes, how much of it got there in the last minute and hour,
//! what its endpoint is given at once, and how its breaker stands. Shows no secret: of a URL no userinfo and no query's values.

use super::answer::{self, Problem};
use super::app::App;
use crate::config::Route;
use crate::stats::BreakerState;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// More than anybody reads; what is wrong is shown all the same.
const ROUTES_MAX: usize = 300;

pub(super) async fn routes(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let config = app.deps.config.load_full();
    let stats = &app.deps.stats;
    stats.collect();
    let is_shown = |(at, route): &(usize, &Arc<Route>)| *at < ROUTES_MAX || stats.route(&route.name).breaker() != BreakerState::Closed;
    let shown: Vec<_> = config.routes.iter().enumerate().filter(is_shown).map(|(_, route)| Arc::clone(route)).collect();
    let names: Vec<_> = shown.iter().map(|route| route.name.clone()).collect();
    let history = Arc::clone(&app.history);
    // What is in the store may be out of reach; the rest is told all the same.
    let read = app.call(&app.store_calls, move |store| history.sums(store, &names)).await;
    let (sums, complete) = read.map_or((Vec::new(), false), |(read, _turn)| read);
    let row_of = |(at, route): (usize, &Arc<Route>)| {
        let mut row = row(&app, route);
        if let (Some(row), Some([minute, hour])) = (row.as_object_mut(), sums.get(at)) {
            row.insert("minute".into(), minute.json());
            row.insert("hour".into(), hour.json());
        }
        row
    };
    let rows: Vec<Value> = shown.iter().enumerate().map(row_of).collect();
    Ok(answer::json(&json!({ "routes": rows, "left_out": config.routes.len() - rows.len(), "complete": complete })))
}

fn row(app: &App, route: &Route) -> Value {
    let (stats, now) = (app.deps.stats.route(&route.name), Instant::now());
    let forward = app.deps.stats.forward_of(&route.name).histogram;
    let away = stats.away();
    json!({
        "name": route.name,
        "recipients": route.recipients.iter().take(3).collect::<Vec<_>>(),
        "more_recipients": route.recipients.len().saturating_sub(3),
        "url": shown_url(route),
        "breaker": stats.breaker().name(),
        "away_since": away.map(|away| away.since),
        "next_try_seconds": away.and_then(|away| away.next_try).map(|at| at.saturating_duration_since(now).as_secs()),
        "busy": stats.busy.get(),
        "limit": stats.limit.get(),
        "queued": stats.queued.get(),
        "delivered": stats.delivered.get(),
        "deferred": stats.deferred.get(),
        "rejected": stats.rejected.get(),
        "p50_us": forward.value_at_quantile(0.5),
        "p99_us": forward.value_at_quantile(0.99),
    })
}

/// The configuration keeps no userinfo in it; a query is where tokens stand. With templates it is the address of an example.
fn shown_url(route: &Route) -> String {
    let mut url = route.target.url.clone();
    // A value without a name may be a token by itself.
    let name = |pair: &str| pair.split_once('=').map_or("…".to_owned(), |(name, _)| format!("{name}=…"));
    let names: Vec<_> = url.query().into_iter().flat_map(|query| query.split('&')).map(name).collect();
    url.set_query(None);
    let query = if names.is_empty() { String::new() } else { format!("?{}", names.join("&")) };
    match &route.socket {
        Some(socket) => format!("unix:{}:{}{query}", socket.display(), url.path()),
        None => format!("{url}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Origin};

    #[test]
    fn no_secret_is_in_an_address() {
        for (url, expected) in [
            ("https://user:secret@app.example.com/in?token=secret&x=secret#", "https://app.example.com/in?token=…&x=…"),
            ("https://app.example.com/in?secret", "https://app.example.com/in?…"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000/"),
            ("unix:/run/app.sock:/in?a=secret", "unix:/run/app.sock:/in?a=…"),
        ] {
            let url = url.trim_end_matches('#');
            let text = format!("[[route]]\nname = \"r\"\nrecipients = [\"*\"]\nurl = \"{url}\"\n[smtp]\nhostname = \"mx.example.com\"\n");
            let config = Config::parse(Origin::File("test".into()), &text).unwrap();
            assert_eq!(shown_url(&config.routes[0]), expected);
        }
    }
}
