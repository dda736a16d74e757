//! The unit as systemd has it, drop-ins included.

use crate::config::unit::parse_duration;
use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const SERVICE: &str = "mailsluice.service";
pub(super) const SOCKET: &str = "mailsluice.socket";

/// What is asked for; a service has some of them and a socket others.
const PROPERTIES: &str = "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload,User,ExecStart,Restart,TimeoutStopUSec,LimitNOFILE,\
                          TasksMax,MemoryMax,MemorySwapMax,AmbientCapabilities,SystemCallFilter,RestrictAddressFamilies,PrivateNetwork,\
                          WorkingDirectory,ProtectSystem,ProtectHome,PrivateTmp,StateDirectory,ReadWritePaths,Listen";

pub(super) struct Unit {
    properties: HashMap<String, String>,
}

impl Unit {
    /// `None`: no systemd here, or no such unit.
    pub(super) fn show(name: &str) -> Option<Self> {
        let output = Command::new("systemctl").args(["show", name, PROPERTIES]).stderr(Stdio::null()).output().ok()?;
        let unit = Self::of(&String::from_utf8_lossy(&output.stdout));
        unit.text("LoadState").is_some_and(|state| state != "not-found").then_some(unit)
    }

    /// From lines `Name=value`; what stands there twice is a list.
    pub(super) fn of(text: &str) -> Self {
        let mut properties: HashMap<String, String> = HashMap::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let known = properties.entry(name.to_owned()).or_default();
            *known = if known.is_empty() { value.to_owned() } else { format!("{known} {value}") };
        }
        Self { properties }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.text(name).into_iter().flat_map(str::split_whitespace)
    }

    /// Whether a list, or one of exceptions with `~` before it, lets this through; an empty one lets all.
    pub(super) fn allows(&self, list: &str, wanted: &str) -> bool {
        let is_named = self.words(list).any(|word| word.trim_start_matches('~') == wanted);
        match self.text(list) {
            Some(list) if !list.starts_with('~') => is_named,
            _ => !is_named,
        }
    }

    /// `None`: not known, or no bound.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// systemd writes `1min 30s`, or `infinity`.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(&self.text(name)?.replace("min", "m"))
    }

    /// Folders that the unit's processes do not see as others do, and why.
    pub(super) fn hidden(&self) -> Vec<(&'static str, &'static str)> {
        let mut hidden = Vec::new();
        if matches!(self.text("ProtectHome"), Some("yes" | "tmpfs")) {
            hidden.extend(["/home", "/root", "/run/user"].map(|folder| (folder, "ProtectHome=")));
        }
        if self.text("PrivateTmp") == Some("yes") {
            hidden.extend(["/tmp", "/var/tmp"].map(|folder| (folder, "PrivateTmp=")));
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_systemd_writes_it() {
        let unit = Unit::of(
            "LoadState=loaded\nTimeoutStopUSec=1min 30s\nMemoryMax=infinity\nLimitNOFILE=1024\nUser=\nListen=[::]:25 (Stream)\nListen=[::1]:26 (Stream)\nProtectHome=yes\n",
        );
        assert_eq!(unit.duration("TimeoutStopUSec"), Some(Duration::from_secs(90)));
        assert_eq!((unit.number("MemoryMax"), unit.number("LimitNOFILE"), unit.text("User")), (None, Some(1024), None));
        assert_eq!(unit.words("Listen").collect::<Vec<_>>(), ["[::]:25", "(Stream)", "[::1]:26", "(Stream)"]);
        for (list, allowed) in [("", true), ("AF_UNIX", false), ("AF_UNIX AF_INET", true), ("~AF_INET", false), ("~AF_UNIX", true)] {
            assert_eq!(Unit::of(&format!("Families={list}")).allows("Families", "AF_INET"), allowed, "{list}");
        }
        assert!(unit.hidden().contains(&("/root", "ProtectHome=")) && !unit.hidden().iter().any(|(folder, _)| *folder == "/tmp"));
    }
}
