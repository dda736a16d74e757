//! The transcripts of `tests/dialogs`, over real sockets.
