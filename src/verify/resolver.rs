//! Questions to the DNS. Answers stay for their time to live, in bounded memory: the library's own cache counts answers and not
//! their octets, and whoever owns a domain can make each as long as TCP carries, which is a megabyte once it is decoded.

use crate::config::Dns;
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::hickory_resolver::net::{DnsError, NetError};
use mail_auth::hickory_resolver::proto::op::ResponseCode;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_auth::hickory_resolver::system_conf::read_system_conf;
use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Octets of all answers kept, by the estimate of `Answer::octets`.
const KEPT_MAX: usize = 8 << 20;
/// A longer answer is used and not kept.
const ANSWER_MAX: usize = 64 << 10;
/// Questions under way; further ones wait for their turn. Each holds a socket.
const ASKING_MAX: usize = 1024;
/// No answer is believed for longer.
const AGE_MAX: Duration = Duration::from_hours(24);
/// Nor is one that there is nothing (RFC 2308 section 5).
const NOTHING_AGE_MAX: Duration = Duration::from_hours(1);

/// What the DNS says to a question.
pub(super) enum Answer {
    /// Of the type that was asked for; aliases are followed.
    Records(Vec<RData>),
    /// No such name, or no such record of it.
    Nothing(ResponseCode),
}

/// It could not be asked, or gave no sensible answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer;

pub(super) struct Resolver {
    library: MessageAuthenticator,
    kept: Mutex<Kept>,
    asking: Semaphore,
}

impl Resolver {
    pub(super) fn new(dns: &Dns, runtime: &Handle) -> Result<Self, String> {
        Ok(Self { library: resolver(dns, runtime)?, kept: Mutex::new(Kept::default()), asking: Semaphore::new(ASKING_MAX) })
    }

    /// For what only the library can do; its look-ups are not kept.
    pub(super) fn library(&self) -> &MessageAuthenticator {
        &self.library
    }

    /// Without asking.
    pub(super) fn kept_answer(&self, name: Name, kind: RecordType) -> Option<Arc<Answer>> {
        self.kept().get(&(name, kind), Instant::now())
    }

    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Result<Arc<Answer>, NoAnswer> {
        let question = (name, kind);
        if let Some(answer) = self.kept().get(&question, Instant::now()) {
            return Ok(answer);
        }
        let _turn = self.asking.acquire().await;
        let (answer, age) = match self.library.resolver().lookup(question.0.clone(), kind).await {
            Ok(found) => {
                let age = found.valid_until().saturating_duration_since(Instant::now()).min(AGE_MAX);
                let records = found.answers().iter().map(|record| &record.data).filter(|data| data.record_type() == kind);
                (Answer::Records(records.cloned().collect()), age)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                let age = Duration::from_secs(nothing.negative_ttl.unwrap_or_default().into()).min(NOTHING_AGE_MAX);
                (Answer::Nothing(nothing.response_code), age)
            }
            Err(_) => return Err(NoAnswer),
        };
        let answer = Arc::new(answer);
        if !age.is_zero() {
            self.kept().insert(question, Entry { answer: Arc::clone(&answer), until: Instant::now() + age });
        }
        Ok(answer)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    pub(super) fn records(&self) -> &[RData] {
        match self {
            Self::Records(records) => records,
            Self::Nothing(_) => &[],
        }
    }

    /// What it takes in memory, with the question; rather too much than too little.
    fn octets(&self) -> usize {
        const QUESTION: usize = 512;
        // A long name stands outside of its record.
        let of_record =
            |data: &RData| if let RData::TXT(text) = data { text.txt_data.iter().map(|string| string.len() + 32).sum() } else { 256 };
        QUESTION + self.records().iter().map(|data| size_of::<RData>() + of_record(data)).sum::<usize>()
    }
}

type Question = (Name, RecordType);

#[derive(Clone)]
struct Entry {
    answer: Arc<Answer>,
    until: Instant,
}

/// Two generations: once the young one is full it becomes the old one, and what is asked for again moves back.
#[derive(Default)]
struct Kept {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    answers: HashMap<Question, Entry>,
    octets: usize,
}

impl Kept {
    fn get(&mut self, question: &Question, now: Instant) -> Option<Arc<Answer>> {
        if let Some(entry) = self.young.answers.get(question) {
            return (entry.until > now).then(|| Arc::clone(&entry.answer));
        }
        let entry = self.old.answers.remove(question).filter(|entry| entry.until > now)?;
        self.insert(question.clone(), entry.clone());
        Some(entry.answer)
    }

    fn insert(&mut self, question: Question, entry: Entry) {
        let octets = entry.answer.octets();
        if octets > ANSWER_MAX {
            return;
        }
        if self.young.octets + octets > KEPT_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.octets += octets;
        if let Some(replaced) = self.young.answers.insert(question, entry) {
            self.young.octets = self.young.octets.saturating_sub(replaced.answer.octets());
        }
    }
}

/// How `[dns]` asks; `doctor` asks alike.
pub(crate) fn resolver(dns: &Dns, runtime: &Handle) -> Result<MessageAuthenticator, String> {
    let (config, mut options) = if dns.servers.is_empty() {
        // A box without resolv.conf still takes mail; checks then say temperror.
        read_system_conf().unwrap_or_else(|error| {
            tracing::debug!(%error, "no /etc/resolv.conf: set dns.servers if a route verifies senders");
            (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
        })
    } else {
        let servers = dns.servers.iter().map(|server| {
            let mut udp = ConnectionConfig::udp();
            let mut tcp = ConnectionConfig::tcp();
            udp.port = server.port();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        (ResolverConfig::from_name_servers(servers.collect()), ResolverOpts::default())
    };
    options.timeout = (dns.timeout / 2).max(Duration::from_millis(100));
    options.attempts = 1;
    options.cache_size = 0;
    // Names of mail are absolute: no search list, no hosts file.
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // Names are asked over UDP and TCP. Without a TLS of our own, hickory wants the system's certificates, and a machine that
    // has none could not start.
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("[dns]: {error}"))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let _inside = runtime.enter();
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .with_tls_config(tls)
        .build()
        .map(MessageAuthenticator)
        .map_err(|error| format!("[dns]: no resolver: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_MAX, Answer, Entry, KEPT_MAX, Kept, Name, RData, RecordType};
    use mail_auth::hickory_resolver::proto::rr::rdata::TXT;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn question(n: usize) -> (Name, RecordType) {
        (Name::from_ascii(format!("n{n}.test.")).unwrap(), RecordType::TXT)
    }

    fn entry(octets: usize, until: Instant) -> Entry {
        let text = vec!["x".repeat(255); octets / 255];
        Entry { answer: Arc::new(Answer::Records(vec![RData::TXT(TXT::new(text))])), until }
    }

    #[test]
    fn answers_end_with_their_time() {
        let now = Instant::now();
        let mut kept = Kept::default();
        kept.insert(question(1), entry(100, now + Duration::from_secs(5)));
        assert!(kept.get(&question(1), now).is_some());
        assert!(kept.get(&(Name::from_ascii("N1.TEST.").unwrap(), RecordType::TXT), now).is_some(), "names know no case");
        assert!(kept.get(&question(1), now + Duration::from_secs(6)).is_none());
        assert!(kept.get(&question(2), now).is_none());
    }

    #[test]
    fn octets_are_bounded_and_what_is_used_stays() {
        let now = Instant::now();
        let until = now + Duration::from_secs(60);
        let mut kept = Kept::default();
        kept.insert(question(0), entry(1000, until));
        for n in 1..5000 {
            kept.insert(question(n), entry(10_000, until));
            assert!(kept.young.octets + kept.old.octets <= KEPT_MAX);
            assert!(kept.get(&question(0), now).is_some(), "asked for all the time, after {n}");
        }
        assert!(kept.get(&question(1), now).is_none());
        assert!(kept.get(&question(4999), now).is_some());
        // The same question again and again is one answer.
        let before = kept.young.octets;
        for _ in 0..5 {
            kept.insert(question(4999), entry(10_000, until));
        }
        assert_eq!(kept.young.octets, before);
        kept.insert(question(6000), entry(ANSWER_MAX, until));
        assert!(kept.get(&question(6000), now).is_none(), "too long to keep");
    }
}
