//! The fleet's database, as the daemon would meet it. Nothing of it keeps mail from flowing.

use super::Finding;
use crate::config::Config;
use crate::{daemon, fleet};

pub(super) fn inspect(config: &Config) -> Vec<Finding> {
    if config.fleet.postgres.is_none() {
        return Vec::new();
    }
    match fleet::inspect(&config.fleet, daemon::id_key(config).as_ref()) {
        Ok(looks) => looks.into_iter().map(|look| finding(&look)).collect(),
        Err(trouble) => vec![Finding::warning(
            format!("the fleet's database cannot be used: {trouble}"),
            "mend fleet.postgres or the server; records wait in the store meanwhile",
        )],
    }
}

fn finding(look: &fleet::Look) -> Finding {
    let what = format!("fleet: {}", look.what);
    look.mend.map_or_else(|| Finding::fine(&*what), |mend| Finding::warning(&*what, mend))
}
