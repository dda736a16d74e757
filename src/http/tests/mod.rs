//! Names, from a name server that misbehaves.

mod names;

#[path = "../../../tests/support/name_server.rs"]
mod name_server;
