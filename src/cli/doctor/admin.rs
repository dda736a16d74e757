//! Who may read and erase the records, and the secrets of the configuration.

use super::Finding;
use crate::config::{AdminListen, Config, Origin};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const OTHERS: u32 = 0o004;

pub(super) fn inspect(config: &Config, file: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (AdminListen::Tcp(address), None, Origin::File(_)) = (&config.admin.listen, &config.admin.token, &config.origin) {
        findings.push(Finding::warning(
            format!("admin.listen {address} asks for no token: every user and program of this machine can read and erase the records"),
            "set admin.token_file = \"/etc/mailsluice/admin.token\" (the package makes it; else: openssl rand -hex 32), or listen on a unix: socket",
        ));
    }
    findings.extend(config.admin.token_path.as_deref().and_then(|path| open_to_all(path, "the admin token")));
    findings.extend(config.smtp.tls.as_ref().and_then(|tls| open_to_all(&tls.private_key, "the private key of [smtp.tls]")));
    if holds_secrets(config) {
        findings.extend(file.and_then(|path| open_to_all(path, "the configuration, which holds secrets,")));
    }
    findings
}

fn open_to_all(path: &Path, what: &str) -> Option<Finding> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & OTHERS != 0).then(|| {
        let path = path.display();
        Finding::warning(
            format!("{path}: every user of this machine can read {what} (mode {:o})", mode & 0o7777),
            format!("chown root:mailsluice {path} && chmod 640 {path}"),
        )
    })
}

fn holds_secrets(config: &Config) -> bool {
    !config.forward.id_secret.is_empty()
        || config.forward.proxy.as_ref().is_some_and(|proxy| proxy.authorization.is_some())
        || config.routes.iter().any(|route| route.authorization.is_some() || !route.signing_secrets.is_empty())
}
