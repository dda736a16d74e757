//! The client against name servers and endpoints on real sockets that behave as a test says.

mod names;
