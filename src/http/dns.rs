//! Asks for a host's addresses: the machine's own table first, then the DNS, with times to live. It runs on a thread of its own, so
//! that no ring waits for a name server. Logs nothing.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

const HOSTS_FILE: &str = "/etc/hosts";
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// The machine's own table is looked into again after this.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// A table of more octets is none of people's.
const HOSTS_OCTETS: u64 = 4 << 20;
/// The second family is waited for so long once the first has answered (RFC 8305 section 3).
const FAMILY_PATIENCE: Duration = Duration::from_millis(50);

/// Addresses, and until when they hold.
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) until: Instant,
}

/// Why there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// The DNS says that there is nothing.
    Nothing(&'static str),
    /// Nobody could say.
    Unknown(String),
}

pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    runtime: Handle,
    /// Made from the system's file as it was then.
    resolver: Mutex<Option<(Option<SystemTime>, Arc<TokioResolver>)>>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Dns {
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(servers: &[SocketAddr], timeout: Duration) -> std::io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("names".to_owned()).spawn(move || runtime.block_on(ended).ok())?;
        Ok(Arc::new(Self { servers: servers.to_vec(), timeout, runtime: handle, resolver: Mutex::default(), _running: running }))
    }

    /// Runs it beside everything else.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(work));
    }

    /// All that is found in time; `tell` hears of it, twice if the second family comes late.
    pub(super) async fn look_up(&self, host: &str, mut tell: impl FnMut(Result<Found, NotFound>)) {
        if let Some(addresses) = own(host) {
            return tell(Ok(Found { addresses, until: Instant::now() + HOSTS_TTL }));
        }
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(why) => return tell(Err(NotFound::Unknown(why))),
        };
        let in_time = |kind| {
            let asked = ask(&resolver, host, kind);
            async { tokio::time::timeout(self.timeout, asked).await.unwrap_or_else(|_| Err(NotFound::Unknown("timed out".to_owned()))) }
        };
        let (mut v6, mut v4) = (pin!(in_time(RecordType::AAAA)), pin!(in_time(RecordType::A)));
        let (first, v6_is_first) = tokio::select! {
            found = &mut v6 => (found, true),
            found = &mut v4 => (found, false),
        };
        let second = async { if v6_is_first { v4.await } else { v6.await } };
        let mut second = pin!(second);
        let soon = if first.is_ok() { FAMILY_PATIENCE } else { self.timeout };
        let together = match tokio::time::timeout(soon, &mut second).await {
            Ok(found) => both(first, found),
            Err(_) => {
                let known = first.as_ref().map(|found| Found { addresses: found.addresses.clone(), until: found.until });
                tell(known.map_err(Clone::clone));
                // Nothing of the second family is no news.
                let Ok(found) = second.await else { return };
                both(first, Ok(found))
            }
        };
        tell(together);
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, String> {
        let changed = std::fs::metadata(SYSTEM_FILE).and_then(|file| file.modified()).ok();
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, resolver)) = resolver.as_ref().filter(|(made_from, _)| *made_from == changed) {
            return Ok(Arc::clone(resolver));
        }
        let made = Arc::new(make(&self.servers, self.timeout)?);
        *resolver = Some((changed, Arc::clone(&made)));
        Ok(made)
    }
}

/// The system's search list holds whoever is asked: endpoints have short names inside a network.
fn make(servers: &[SocketAddr], timeout: Duration) -> Result<TokioResolver, String> {
    let (system, mut options) =
        read_system_conf().unwrap_or_else(|_| (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default()));
    let (domain, search, mut name_servers) = system.into_parts();
    if !servers.is_empty() {
        name_servers = servers.iter().map(name_server).collect();
    }
    if name_servers.is_empty() {
        return Err("no name server: set dns.servers".to_owned());
    }
    options.timeout = (timeout / 2).max(Duration::from_millis(100));
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // Names are asked over UDP and TCP. Without a TLS of our own, the library wants the system's certificates.
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    TokioResolver::builder_with_config(ResolverConfig::from_parts(domain, search, name_servers), TokioRuntimeProvider::default())
        .with_options(options)
        .with_tls_config(tls)
        .build()
        .map_err(|error| error.to_string())
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    udp.port = server.port();
    tcp.port = server.port();
    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
}

async fn ask(resolver: &TokioResolver, host: &str, kind: RecordType) -> Result<Found, NotFound> {
    let name = Name::from_utf8(host).map_err(|_| NotFound::Nothing("no name that the DNS can have"))?;
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let addresses = found.answers().iter().filter_map(|record| address(&record.data));
            let addresses: Vec<IpAddr> = addresses.collect();
            if addresses.is_empty() {
                return Err(NotFound::Nothing("the host has no address"));
            }
            Ok(Found { addresses, until: found.valid_until() })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(NotFound::Nothing("no such host")),
        Err(NetError::Timeout) => Err(NotFound::Unknown("timed out".to_owned())),
        Err(error) => Err(NotFound::Unknown(format!("no name server answers: {error}"))),
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    if let RData::A(v4) = data {
        return Some(IpAddr::V4(v4.0));
    }
    if let RData::AAAA(v6) = data { Some(IpAddr::V6(v6.0)) } else { None }
}

fn both(first: Result<Found, NotFound>, second: Result<Found, NotFound>) -> Result<Found, NotFound> {
    match (first, second) {
        (Ok(mut one), Ok(other)) => {
            one.addresses.extend(other.addresses);
            Ok(Found { addresses: one.addresses, until: one.until.min(other.until) })
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        // What is not known may be there.
        (Err(unknown @ NotFound::Unknown(_)), _) | (_, Err(unknown)) => Err(unknown),
    }
}

/// What the machine's own table says, and what `localhost` is wherever (RFC 6761 section 6.3).
fn own(host: &str) -> Option<Vec<IpAddr>> {
    let host = host.trim_end_matches('.');
    let named = table().map(|table| addresses_in(&table, host)).unwrap_or_default();
    if !named.is_empty() {
        return Some(named);
    }
    let is_local = host.rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case("localhost"));
    is_local.then(|| vec![IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

fn table() -> Option<String> {
    let file = std::fs::metadata(HOSTS_FILE).ok()?;
    (file.is_file() && file.len() <= HOSTS_OCTETS)
        .then(|| std::fs::read(HOSTS_FILE).ok())
        .flatten()
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
}

fn addresses_in(table: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if !found.contains(&address) && words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{addresses_in, own};

    #[test]
    fn the_machines_own_table() {
        let table = "# 10.9.9.9 app\n10.0.0.1\tApp.internal app # app2\nnonsense app\n::1 app\n10.0.0.1 app\n";
        assert_eq!(addresses_in(table, "APP"), ["10.0.0.1".parse::<std::net::IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert!(addresses_in(table, "app2").is_empty());
        assert!(own("x.localhost").unwrap().iter().all(std::net::IpAddr::is_loopback));
        assert_eq!(own("localhost.example"), None);
    }
}
