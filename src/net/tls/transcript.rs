//! The hash of a handshake over what the client sent, where its ClientHello was changed on the way to the library.

use super::server_name::shown;
use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

/// The same suites, each with its hash over what the client sent. They live as long as the process, for the library wants them so:
/// once made, never again.
pub(super) fn over_what_was_sent(mut provider: CryptoProvider) -> CryptoProvider {
    for suite in &mut provider.cipher_suites {
        *suite = match *suite {
            SupportedCipherSuite::Tls13(suite) => {
                SupportedCipherSuite::Tls13(leak(Tls13CipherSuite { common: common(&suite.common), ..*suite }))
            }
            SupportedCipherSuite::Tls12(suite) => {
                SupportedCipherSuite::Tls12(leak(Tls12CipherSuite { common: common(&suite.common), ..*suite }))
            }
        };
    }
    provider
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn common(of: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon { hash_provider: leak(Shown(of.hash_provider)), ..*of }
}

struct Shown(&'static dyn Hash);

impl Hash for Shown {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Running(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }
}

struct Running(Box<dyn Context>);

impl Context for Running {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    /// The library gives each message by itself.
    fn update(&mut self, data: &[u8]) {
        match shown(data) {
            Some(hello) => self.0.update(&hello),
            None => self.0.update(data),
        }
    }
}
