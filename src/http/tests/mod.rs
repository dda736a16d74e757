mod names;

#[path = "../../../tests/support/name_server.rs"]
mod name_server;
