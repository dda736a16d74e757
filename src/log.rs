//! Log lines: journald, text or JSON; the only place that formats them.
