//! What `check` and `doctor` say of a configuration that is allowed, but can hardly be meant.

use crate::config::{Config, Warning};
use crate::route::Routes;

/// Routes and mailboxes that are named at the most.
const NAMED: usize = 5;

pub(super) fn of(config: &Config) -> Vec<Warning> {
    let routes = Routes::new(&config.routes);
    let mut warnings = config.warnings.clone();
    warnings.extend(routes.idle().take(NAMED).map(|(idle, taker)| {
        Warning::new(
            format!("route {} gets no mail: all of its recipients are taken in front of it, by route {}", idle.name, taker.name),
            format!("move {} in front of {}, or remove it", idle.name, taker.name),
        )
    }));
    warnings.extend(postmaster(config, &routes));
    warnings
}

/// RFC 5321 section 4.5.1: without a domain, and at each domain whose mail is taken.
fn postmaster(config: &Config, routes: &Routes) -> Option<Warning> {
    if config.listens_on_loopback_only() {
        return None;
    }
    let bare = [("postmaster".to_owned(), routes.postmaster(&config.smtp.hostname))];
    let at_domains = routes.domains().into_iter().map(|domain| format!("postmaster@{domain}")).map(|mailbox| (mailbox.clone(), mailbox));
    let refused: Vec<_> = bare.into_iter().chain(at_domains).filter(|(_, mailbox)| routes.find(mailbox).is_none()).collect();
    let named: Vec<_> = refused.iter().map(|(name, _)| name.as_str()).take(NAMED).collect();
    let more = if refused.len() > NAMED { format!(" and {} more", refused.len() - NAMED) } else { String::new() };
    (!named.is_empty()).then(|| {
        Warning::new(
            format!("mail to {}{more} is refused (550), and every mail server has to take it (RFC 5321 section 4.5.1)", named.join(", ")),
            "add \"postmaster\" and \"postmaster@*\" to the recipients of a route whose mail somebody reads",
        )
    })
}
