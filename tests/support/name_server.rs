//! A name server on loopback that hangs, fails, lies and changes its mind, as it is told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

const A: u16 = 1;
const AAAA: u16 = 28;

#[derive(Clone)]
pub(crate) enum Says {
    /// With this time to live.
    Addresses(u32, Vec<IpAddr>),
    Failure,
    NoSuchName,
    Nothing,
}

struct State {
    says: HashMap<String, Says>,
    /// To any other name.
    otherwise: Says,
    asked: Vec<String>,
}

/// Answers by name; a name that it was not told of does not exist.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { says: HashMap::new(), otherwise: Says::NoSuchName, asked: Vec::new() }));
        let told = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut query) {
                let (name, kind, question_end) = question(&query[..n]);
                let mut state = told.lock().unwrap();
                let says = state.says.get(&name).unwrap_or(&state.otherwise).clone();
                state.asked.push(name);
                drop(state);
                if let Some(answer) = answer(&query[..question_end], kind, &says) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, state }
    }

    pub(crate) fn say(&self, name: &str, says: Says) {
        self.state.lock().unwrap().says.insert(name.to_owned(), says);
    }

    /// To every name, whatever it was told before.
    pub(crate) fn say_always(&self, says: Says) {
        let mut state = self.state.lock().unwrap();
        state.says.clear();
        state.otherwise = says;
    }

    /// Questions so far.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    /// Names that it was asked for and that begin so, each once.
    pub(crate) fn asked_for(&self, start: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|name| name.starts_with(start)).collect::<std::collections::HashSet<_>>().len()
    }
}

fn question(query: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

fn answer(query: &[u8], kind: u16, says: &Says) -> Option<Vec<u8>> {
    let (code, ttl, addresses) = match says {
        Says::Nothing => return None,
        Says::Failure => (2, 0, Vec::new()),
        Says::NoSuchName => (3, 0, Vec::new()),
        Says::Addresses(ttl, addresses) => (0, *ttl, addresses.clone()),
    };
    let of_kind: Vec<IpAddr> = addresses.into_iter().filter(|ip| (kind == AAAA && ip.is_ipv6()) || (kind == A && ip.is_ipv4())).collect();
    let mut octets = query.to_vec();
    octets[2..12].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, u8::try_from(of_kind.len()).unwrap(), 0, 0, 0, 0]);
    for ip in of_kind {
        octets.extend_from_slice(&[0xc0, 12, 0, u8::try_from(kind).unwrap(), 0, 1]);
        octets.extend_from_slice(&ttl.to_be_bytes());
        match ip {
            IpAddr::V4(v4) => octets.extend_from_slice(&[&[0, 4], v4.octets().as_slice()].concat()),
            IpAddr::V6(v6) => octets.extend_from_slice(&[&[0, 16], v6.octets().as_slice()].concat()),
        }
    }
    Some(octets)
}
