//! Watches one call's transport, since ureq does not tell how far a call came: whether the connection was a reused one, whether
//! an octet went out, whether one came back. A forwarder makes one call at a time, so the notes are its thread's.
//!
//! An endpoint that answers early and closes makes our sending fail; the answer is then still in the socket. The watch swallows
//! that failure once, so that ureq goes on to read.

use super::redirect;
use std::cell::Cell;
use std::io::ErrorKind;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// How far the call of this thread has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// A new connection was made for it.
    pub(super) fresh: bool,
    /// The connection goes to an address of the open internet.
    pub(super) to_public: bool,
    pub(super) sent: bool,
    pub(super) received: bool,
}

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress { fresh: false, to_public: false, sent: false, received: false }) };
    static ONLY_PUBLIC: Cell<bool> = const { Cell::new(false) };
}

/// Starts a call's notes. `only_public`: it may connect to no loopback, link-local or private address.
pub(super) fn begin(only_public: bool) {
    PROGRESS.set(Progress::default());
    ONLY_PUBLIC.set(only_public);
}

pub(super) fn progress() -> Progress {
    PROGRESS.get()
}

pub(super) fn only_public() -> bool {
    ONLY_PUBLIC.get()
}

fn note(change: impl FnOnce(&mut Progress)) {
    let mut progress = PROGRESS.get();
    change(&mut progress);
    PROGRESS.set(progress);
}

/// Last in the chain of connectors: above TCP and TLS.
#[derive(Debug, Default)]
pub(super) struct WatchConnector;

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watch<In>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Watch<In>>, Error> {
        note(|progress| progress.fresh = true);
        // With several addresses we do not know which one answered: private only if all of them are.
        let public = details.addrs.iter().any(|address| redirect::is_public(address.ip()));
        Ok(chained.map(|inner| Watch { inner, public, gave_up_sending: false }))
    }
}

#[derive(Debug)]
pub(super) struct Watch<T> {
    inner: T,
    public: bool,
    gave_up_sending: bool,
}

impl<T: Transport> Transport for Watch<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        note(|progress| {
            progress.sent = true;
            progress.to_public = self.public;
        });
        if self.gave_up_sending {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.gave_up_sending = true;
                Ok(())
            }
            other => other,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.inner.await_input(timeout)?;
        if came {
            note(|progress| progress.received = true);
        }
        Ok(came)
    }

    fn is_open(&mut self) -> bool {
        !self.gave_up_sending && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
