//! The odd answers of `tests/answers`, read by curl, Python's `requests` and Node's `fetch`: what they make of the same octets stands in
//! each file, beside what we make of them.

use super::python::interpreter;
use crate::contract::transcripts;
use crate::support::Endpoint;
use crate::support::process::run;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name).display().to_string()
}

/// A status or `none` for each URL.
fn statuses(mut command: Command) -> Vec<String> {
    run(&mut command, PATIENCE).ok().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn what_others_make_of_the_same_octets() {
    let transcripts = transcripts::all();
    let answers: HashMap<String, _> = transcripts.iter().map(|transcript| (format!("/{}", transcript.name), transcript.answer())).collect();
    let endpoint = Endpoint::with(move |request| answers[&request.target].clone()).start();
    let urls: Vec<String> = transcripts.iter().map(|transcript| endpoint.url(&format!("/{}", transcript.name))).collect();
    let mut curl = Command::new("sh");
    curl.args(["-c", "for url; do curl -s -m 3 -o /dev/null -w '%{http_code} %{exitcode}\\n' -d m \"$url\" || :; done", "sh"]).args(&urls);
    let mut requests = Command::new(interpreter());
    requests.arg(script("answers.py")).args(&urls);
    let mut fetch = Command::new("node");
    fetch.arg(script("answers.mjs")).args(&urls);
    // They wait for what does not end: side by side.
    let [curl, requests, fetch] = std::thread::scope(|scope| {
        [curl, requests, fetch].map(|command| scope.spawn(|| statuses(command))).map(|thread| thread.join().unwrap())
    });
    let curl: Vec<String> = curl
        .iter()
        .map(|line| match line.split_once(' ') {
            Some((status, "0")) => status.to_owned(),
            _ => "none".to_owned(),
        })
        .collect();
    let mut wrong = Vec::new();
    for (client, got) in [("curl", curl), ("requests", requests), ("fetch", fetch)] {
        assert_eq!(got.len(), transcripts.len(), "{client}: {got:?}");
        for (transcript, got) in transcripts.iter().zip(got) {
            if transcript.expected(client) != got {
                wrong.push(format!("{}: {client}: {got}", transcript.name));
            }
        }
    }
    // Who reads it otherwise than we do is explained.
    for transcript in transcripts.iter().filter(|transcript| !transcript.explains()) {
        let ours = match transcript.expected("status") {
            "0" => "none",
            status => status,
        };
        if ["curl", "requests", "fetch"].iter().any(|client| transcript.expected(client) != ours) {
            wrong.push(format!("{}: no why", transcript.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
