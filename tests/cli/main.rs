//! The program as its users meet it: real processes, real sockets, real signals.
#![allow(unreachable_pub, reason = "a test program has no outside; pub says what a module offers the others")]

#[path = "../house/mod.rs"]
mod house;

mod abuse;
mod backlog;
mod certificates;
mod checker;
mod lines;
mod serve_auth;
mod serve_connections;
mod serve_flags;
mod serve_idle;
mod serve_sockets;
mod serve_stop;
mod serve_tls;
mod soak;
mod start;
