//! SIGHUP: the file is read again; a good one replaces routes, limits, TLS and logging, a bad one changes nothing.

use super::systemd::notify;
use super::{Daemon, raise_descriptors};
use crate::config::{Config, Origin};
use crate::fleet::Fleet;
use crate::net::Live;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Daemon {
    pub(super) fn reload(&self, log: &crate::log::Handle) {
        let old = self.config.load();
        let Origin::File(path) = &old.origin else {
            tracing::info!("nothing to reload: no configuration file was named");
            return;
        };
        match sd_notify::NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[sd_notify::NotifyState::Reloading, now]),
            Err(_) => notify(&[sd_notify::NotifyState::Reloading]),
        }
        match Config::load_again(path, &old).and_then(|read| read.0.check_own_files().map(|()| read)) {
            Ok((config, broken)) => {
                for error in broken {
                    tracing::error!("the old routes of this file stay: {error}");
                }
                if self.apply(config, log) {
                    let routes = self.config.load().routes.len();
                    tracing::info!(routes, "configuration reloaded");
                }
            }
            Err(error) => tracing::error!("reload refused, nothing changed: {error}"),
        }
        // Nobody waits for what has been mended, or broken.
        self.look_around();
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Values in files of their own are in use some seconds after these files have changed; the configuration as it is written is not
    /// read again for it.
    pub(super) fn look_at_values(&self, log: &crate::log::Handle) {
        let old = self.config.load();
        let changes = old.look_at_values();
        if !changes.any || self.refused_values.load(Ordering::Relaxed) == changes.mark {
            return;
        }
        let taken = match old.values_again().and_then(|read| read.0.check_own_files().map(|()| read)) {
            Ok((config, broken)) => {
                let refused = !broken.is_empty();
                for error in broken {
                    tracing::error!("the old values of this file stay: {error}");
                }
                let alike =
                    config.routes.len() == old.routes.len() && config.routes.iter().zip(&old.routes).all(|(new, old)| new.asks_alike(old));
                let taken = if alike && !changes.beyond_routes {
                    self.take_routes(config);
                    true
                } else {
                    self.apply(config, log)
                };
                taken && !refused
            }
            Err(error) => {
                tracing::error!("a changed value is refused, the old one stays: {error}");
                false
            }
        };
        self.refused_values.store(if taken { 0 } else { changes.mark }, Ordering::Relaxed);
        if taken {
            tracing::info!("values of changed files are in use");
        }
    }

    /// What is said to endpoints, not how they are asked.
    fn take_routes(&self, config: Config) {
        self.shared.delivery.reload(&config, &self.config.load());
        let config = Arc::new(config);
        let postmaster = self.shared.delivery.postmaster(&config.smtp.hostname);
        self.shared.live.store(Arc::new(Live::of(Arc::clone(&config), postmaster)));
        self.config.store(config);
    }

    /// Parts that can refuse come first; after them nothing can fail. False: nothing has changed, and it is logged.
    fn apply(&self, config: Config, log: &crate::log::Handle) -> bool {
        if let Err(error) = self.shared.tls.reload(config.smtp.tls.as_ref()) {
            tracing::error!("reload refused, nothing changed: smtp.tls: {error}");
            return false;
        }
        if let Err(error) = self.forwarders.reload(&config, Some(&self.config.load())) {
            tracing::error!("reload refused, nothing changed: {error}");
            return false;
        }
        self.tell_what_waits(&config);
        raise_descriptors(&config);
        self.reload_fleet(&config);
        log.set_level(config.log.level);
        self.store.reload(&config.store);
        self.shared.budget.set_limits(config.memory.body_budget, config.memory.per_ip_share, config.per_route_share());
        self.shared.limits.set_limits(config.smtp.max_connections, config.smtp.max_connections_per_ip);
        self.take_routes(config);
        true
    }

    /// Sinks that changed are begun anew. The old ones end by themselves, a second later at the most.
    fn reload_fleet(&self, config: &Config) {
        let old = self.fleet.load_full();
        let has_none = config.fleet.postgres.is_none() && config.fleet.otlp.is_none();
        if old.as_ref().map_or(has_none, |old| old.is_of(&config.fleet)) {
            return;
        }
        if let Some(old) = old {
            old.stop();
        }
        match Fleet::start(config, &self.store, &self.shared.stats, &self.shared.id_key) {
            Ok(fleet) => self.fleet.store(fleet),
            Err(error) => tracing::error!(%error, "the fleet could not be started again"),
        }
    }

    /// Keys that need a restart are named, so that nobody waits for them; they stand among the notices until it comes.
    fn tell_what_waits(&self, new: &Config) {
        let waiting = self.pinned.differing(new);
        for key in &waiting {
            tracing::warn!(key, "differs in the file from what runs, takes effect at the next restart");
        }
        let sentence = format!("changed in the file, in use from the next restart on: {}", waiting.join(", "));
        self.shared.stats.notices.set("restart", (!waiting.is_empty()).then_some(sentence));
    }
}
