//! SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 9989) results for the envelope; never a decision.
//!
//! DNS is asked on a thread of its own: SPF while the message still comes, keys and policies (`questions.rs`) when it is there, all at once.
//! What is left then asks nobody (`facts.rs`): it is work for the processor. Each is bounded by `[dns] timeout`, in look-ups and in number at
//! once. A check that was cut off says `temperror`; one that was not asked for is absent. Logs nothing of a message; fails only at start.

mod author;
mod facts;
mod known;
mod questions;
mod records;
mod resolver;
mod results;
mod signatures;
mod spf;

pub use facts::Facts;
pub use questions::{Questions, header};
pub(crate) use resolver::resolver;
pub use results::{SpfResult, Verification};

use crate::config::Dns;
use crate::envelope::Envelope;
use known::Known;
use resolver::Resolver;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// SPF checks under way at once; more are answered `temperror`.
const SPF_CHECKS_MAX: usize = 1024;
/// Messages whose keys and policies are asked for at once; of more, nothing is known.
const MESSAGE_CHECKS_MAX: usize = 1024;

/// Asks the DNS, on a thread of its own.
pub struct Verifier {
    runtime: Handle,
    resolver: Arc<Resolver>,
    timeout: Duration,
    spf_checks: Arc<Semaphore>,
    message_checks: Arc<Semaphore>,
}

impl Verifier {
    /// # Errors
    /// The system's resolver configuration cannot be read, or there is no thread to be had.
    pub fn start(dns: &Dns) -> Result<Arc<Self>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the DNS thread: {error}"))?;
        let handle = runtime.handle().clone();
        let resolver = match Resolver::new(dns, &handle) {
            Ok(resolver) => Arc::new(resolver),
            Err(error) => {
                // A runtime may not be dropped within another one, where this is called.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        std::thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .map_err(|error| format!("cannot start the DNS thread: {error}"))?;
        Ok(Arc::new(Self {
            runtime: handle,
            resolver,
            timeout: dns.timeout,
            spf_checks: Arc::new(Semaphore::new(SPF_CHECKS_MAX)),
            message_checks: Arc::new(Semaphore::new(MESSAGE_CHECKS_MAX)),
        }))
    }

    /// Starts an SPF check of MAIL FROM (of HELO for the null reverse-path, RFC 7208 section 2.4); never blocks.
    pub fn spf(&self, ip: IpAddr, helo: &str, reverse_path: &str) -> oneshot::Receiver<SpfResult> {
        let (mut sender, receiver) = oneshot::channel();
        let domain = reverse_path.rsplit_once('@').map_or(helo, |(_, domain)| domain).to_owned();
        let Ok(permit) = Arc::clone(&self.spf_checks).try_acquire_owned() else {
            // The receiver is in the caller's hand.
            drop(sender.send(SpfResult { result: "temperror", domain }));
            return receiver;
        };
        let resolver = Arc::clone(&self.resolver);
        let (helo, reverse_path) = (helo.to_owned(), reverse_path.to_owned());
        let timeout = self.timeout;
        self.runtime.spawn(async move {
            let check = tokio::time::timeout(timeout, spf::check(&resolver, ip, &helo, &reverse_path));
            // Once the transaction is gone nobody is asked any more.
            let result = tokio::select! {
                result = check => Some(result.map_or("temperror", results::word_of_spf)),
                () = sender.closed() => None,
            };
            drop(permit);
            if let Some(result) = result {
                drop(sender.send(SpfResult { result, domain }));
            }
        });
        receiver
    }

    /// What the checks of one message need to know, and whatever is not known by then. Waits as a future: no thread is held meanwhile. What
    /// was asked lately is known at once.
    pub async fn ask(&self, questions: Questions, envelope: &Envelope, spf: Option<oneshot::Receiver<SpfResult>>, until: Instant) -> Facts {
        let until = until.min(Instant::now() + self.timeout);
        let mut pending =
            questions.wants_spf().then(|| spf.unwrap_or_else(|| self.spf(envelope.peer.ip, &envelope.helo, &envelope.reverse_path)));
        let mut spf = pending.as_mut().and_then(|pending| pending.try_recv().ok());
        let (mut known, mut missing) = Known::kept(&self.resolver, questions.names());
        let permit = self.message_checks.try_acquire();
        if permit.is_err() {
            missing.clear();
        }
        let author = questions.author();
        if !missing.is_empty() || known.depends_on(author) || pending.is_some() && spf.is_none() {
            let (mut sender, receiver) = oneshot::channel();
            let (resolver, author) = (Arc::clone(&self.resolver), author.to_owned());
            self.runtime.spawn(async move {
                let spf = async {
                    match spf {
                        None => tokio::time::timeout_at(until.into(), pending?).await.ok()?.ok(),
                        known => known,
                    }
                };
                let known = known.learn(&resolver, missing, &author, until);
                // Once the message is gone nobody is asked any more.
                tokio::select! {
                    found = async { tokio::join!(spf, known) } => drop(sender.send(found)),
                    () = sender.closed() => {}
                }
            });
            (spf, known) = receiver.await.unwrap_or_default();
        }
        let spf = questions
            .wants_spf()
            .then(|| spf.unwrap_or_else(|| SpfResult { result: "temperror", domain: results::mail_from_domain(envelope) }));
        Facts::new(questions, spf, known)
    }

    /// All the checks that were asked for; only computes.
    #[must_use]
    pub fn judge(&self, facts: Facts, envelope: &Envelope, message: &[u8]) -> Verification {
        facts.judge(self.resolver.library(), envelope, message)
    }
}
