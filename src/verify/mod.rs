//! SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 9989) results for the envelope; never a decision.
//!
//! DNS is asked on a thread of its own; SPF starts while the message still comes, DKIM and DMARC run on the forwarder's
//! thread. Each is bounded by `[dns] timeout`, in look-ups and in number at once. A check that was cut off says
//! `temperror`; one that was not asked for is absent. Logs nothing of a message; fails only at start.

mod author;
mod known;
mod records;
mod resolver;
mod results;
mod signatures;
mod spf;

pub(crate) use resolver::resolver;
pub use results::{SpfResult, Verification};

use crate::config::{self, Dns};
use crate::envelope::Envelope;
use known::Known;
use mail_auth::{AuthenticatedMessage, Parameters, SpfOutput, dmarc::verify::DmarcParameters};
use resolver::Resolver;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// SPF checks under way at once; more are answered `temperror`.
const SPF_CHECKS_MAX: usize = 1024;

/// Asks the DNS, on a thread of its own.
pub struct Verifier {
    runtime: Handle,
    resolver: Arc<Resolver>,
    timeout: Duration,
    spf_checks: Arc<Semaphore>,
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
        Ok(Arc::new(Self { runtime: handle, resolver, timeout: dns.timeout, spf_checks: Arc::new(Semaphore::new(SPF_CHECKS_MAX)) }))
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

    /// All the checks a route asks for, until `[dns] timeout` or the deadline. Blocks: called on a forwarder's thread.
    #[must_use]
    pub fn check(
        &self,
        wanted: config::Verify,
        envelope: &Envelope,
        message: &[u8],
        spf: Option<oneshot::Receiver<SpfResult>>,
        deadline: Instant,
    ) -> Verification {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let spf = if wanted.spf || wanted.dmarc { Some(self.wait_for_spf(envelope, spf, deadline)) } else { None };
        let mut verification = Verification::default();
        if wanted.dkim || wanted.dmarc {
            // The parser and the verifier work on what a stranger sent: their panic is a result that could not be had.
            let checked = catch_unwind(AssertUnwindSafe(|| {
                self.runtime.block_on(self.check_message(wanted, envelope, message, spf.as_ref(), deadline))
            }));
            verification = checked.unwrap_or_else(|_| results::cut_off(wanted, envelope, spf.as_ref()));
        }
        verification.spf = if wanted.spf { spf } else { None };
        verification
    }

    fn wait_for_spf(&self, envelope: &Envelope, pending: Option<oneshot::Receiver<SpfResult>>, deadline: Instant) -> SpfResult {
        let pending = pending.unwrap_or_else(|| self.spf(envelope.peer.ip, &envelope.helo, &envelope.reverse_path));
        let waited = self.runtime.block_on(async { tokio::time::timeout_at(deadline.into(), pending).await });
        match waited {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => SpfResult { result: "temperror", domain: results::mail_from_domain(envelope) },
        }
    }

    async fn check_message(
        &self,
        wanted: config::Verify,
        envelope: &Envelope,
        message: &[u8],
        spf: Option<&SpfResult>,
        deadline: Instant,
    ) -> Verification {
        let Some(mut parsed) = AuthenticatedMessage::parse(message) else {
            return results::unparsed(wanted, envelope, spf);
        };
        let aside = signatures::set_aside(&mut parsed);
        parsed.from = author::addresses(parsed.headers.iter().copied());
        let checks = async {
            let mut known = Known::new(&self.resolver);
            for header in &parsed.dkim_headers {
                known.learn_key(&header.header).await;
            }
            let dkim = self.resolver.library().verify_dkim(Parameters::new(&parsed).with_txt_cache(&known)).await;
            let dmarc = match spf {
                Some(spf) if wanted.dmarc => Some(self.check_dmarc(envelope, &parsed, &dkim, spf).await),
                _ => None,
            };
            let signatures: Vec<_> = dkim.iter().map(results::judged).chain(aside).collect();
            Verification {
                spf: None,
                dkim: wanted.dkim.then(|| results::dkim(&signatures)),
                dmarc: dmarc.zip(spf).map(|(output, spf)| results::dmarc(&output, &signatures, spf)),
            }
        };
        match tokio::time::timeout_at(deadline.into(), checks).await {
            Ok(verification) => verification,
            Err(_) => results::cut_off(wanted, envelope, spf),
        }
    }

    async fn check_dmarc(
        &self,
        envelope: &Envelope,
        parsed: &AuthenticatedMessage<'_>,
        dkim: &[mail_auth::DkimOutput<'_>],
        spf: &SpfResult,
    ) -> mail_auth::DmarcOutput {
        let domain = results::mail_from_domain(envelope);
        let author = parsed.from().rsplit_once('@').map_or("", |(_, domain)| domain);
        let mut known = Known::new(&self.resolver);
        known.learn_policies(author).await;
        // Others are looked at if they may belong to the same organization.
        let passed = dkim.iter().filter_map(|output| output.signature()).map(|signature| signature.d.as_str());
        for other in passed.chain([domain.as_str()]) {
            if known::may_belong_together(other, author) {
                known.learn_policies(other).await;
            }
        }
        let spf_output = SpfOutput::new(domain.clone()).with_result(results::spf_of_word(spf.result));
        let parameters = DmarcParameters {
            message: parsed,
            dkim_output: dkim,
            dkim2_output: None,
            rfc5321_mail_from_domain: &domain,
            spf_output: &spf_output,
        };
        self.resolver.library().verify_dmarc(Parameters::new(parameters).with_txt_cache(&known)).await
    }
}
