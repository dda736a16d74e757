//! What was decided at the start: other values in the file count at the next one. Compared with what runs, not with the file before, so
//! that a key is named as long as it differs.

use crate::config::{AdminListen, Config, LogFormat, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(super) struct Pinned {
    smtp_listen: Vec<SocketAddr>,
    smtp_threads: usize,
    admin_listen: AdminListen,
    store_path: PathBuf,
    id_secret: Secret,
    dns_servers: Vec<SocketAddr>,
    dns_timeout: Duration,
    log_format: LogFormat,
}

impl Pinned {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            smtp_listen: config.smtp.listen.clone(),
            smtp_threads: config.smtp.threads,
            admin_listen: config.admin.listen.clone(),
            store_path: config.store.path.clone(),
            id_secret: config.forward.id_secret.clone(),
            dns_servers: config.dns.servers.clone(),
            dns_timeout: config.dns.timeout,
            log_format: config.log.format,
        }
    }

    /// Keys whose values in this configuration are not those that run.
    pub(super) fn differing(&self, config: &Config) -> Vec<&'static str> {
        let pairs = [
            ("smtp.listen", self.smtp_listen == config.smtp.listen),
            ("smtp.threads", self.smtp_threads == config.smtp.threads),
            ("admin.listen", self.admin_listen == config.admin.listen),
            ("store.path", self.store_path == config.store.path),
            ("forward.id_secret", self.id_secret == config.forward.id_secret),
            ("dns.servers", self.dns_servers == config.dns.servers),
            ("dns.timeout", self.dns_timeout == config.dns.timeout),
            ("log.format", self.log_format == config.log.format),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }
}
