//! The development configuration: what runs when no file is named. Everything stays on this machine, and every
//! message goes to the daemon's own inspector.

/// Named in errors and by `check` in place of a file.
pub const NAME: &str = "(development configuration)";

/// Read by the same code as a file, so it shows what the smallest useful file looks like.
pub const TEXT: &str = r#"[smtp]
listen = ["127.0.0.1:2525"]
hostname = "localhost"

[[route]]
name = "inspector"
recipients = ["*"]
url = "http://127.0.0.1:8025/inspector"
format = "json"

[store]
path = "./mailsluice-data/records.redb"

[admin]
listen = "127.0.0.1:8025"

[log]
messages = "all"
"#;
