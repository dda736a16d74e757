//! What waits for the writer. Its thread is woken by whoever puts something there: a channel's own wait spins and yields for microseconds
//! before it sleeps, and a lone message would pay for that. Logs nothing.

use super::commit::Pending;
use crate::store::error::Fault;
use crossbeam_channel::{SendError, Sender};
use std::thread::Thread;

/// What the writer is asked to do.
pub(in crate::store) enum Message {
    Record(Pending),
    /// Hands on what there is; answers when a journal is in use that holds none of it.
    Seal(Sender<Result<(), Fault>>),
    /// The last one: what comes behind it is dropped, and becomes log lines.
    Close,
}

/// The end of it where one puts something.
#[derive(Clone)]
pub(in crate::store) struct Queue {
    messages: Sender<Message>,
    writer: Thread,
}

impl Queue {
    pub(in crate::store) fn new(messages: Sender<Message>, writer: Thread) -> Self {
        Self { messages, writer }
    }

    /// Gives the message back where the writer has ended.
    pub(in crate::store) fn send(&self, message: Message) -> Result<(), SendError<Message>> {
        self.messages.send(message)?;
        self.writer.unpark();
        Ok(())
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::FileSystem;
    use crate::store::machine::receive_unparked;
    use crossbeam_channel::{RecvTimeoutError, unbounded};
    use std::time::{Duration, Instant};

    #[test]
    fn who_waits_is_woken_by_what_comes_and_by_the_time() {
        const LONG: Duration = Duration::from_secs(60);
        let (sender, messages) = unbounded();
        assert_eq!(receive_unparked(&FileSystem, &messages, Instant::now()).err(), Some(RecvTimeoutError::Timeout));
        let begun = Instant::now();
        let waiting = std::thread::spawn(move || {
            let next = || receive_unparked(&FileSystem, &messages, begun + LONG);
            while !matches!(next(), Ok(Message::Close)) {}
        });
        let queue = Queue::new(sender, waiting.thread().clone());
        let (done, answer) = unbounded();
        queue.send(Message::Seal(done)).unwrap();
        // Taken, and dropped: from now on it waits.
        assert!(answer.recv().is_err());
        queue.send(Message::Close).unwrap();
        waiting.join().unwrap();
        assert!(begun.elapsed() < LONG);
    }
}
