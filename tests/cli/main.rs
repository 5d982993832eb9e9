//! The program as its users meet it: real processes, real sockets, real signals.
#![allow(unreachable_pub, reason = "a test program has no outside; pub says what a module offers the others")]

#[path = "../house/mod.rs"]
mod house;

mod abuse;
mod agreement;
mod backlog;
mod breaks;
mod certificates;
mod checker;
mod client_answers;
mod client_arguments;
mod client_auth;
mod client_autostart;
mod client_cluster;
mod client_errors;
mod client_fakes;
mod client_house;
mod client_retry;
mod client_settings;
mod client_shards;
mod client_tls;
mod crowds;
mod etcd_pages;
mod fails_closed;
mod help;
mod holders;
mod json;
mod lines;
mod lost_state;
mod original;
mod places;
mod queue;
mod renew;
mod scripts;
mod serve_auth;
mod serve_connections;
mod serve_extras;
mod serve_flags;
mod serve_frozen;
mod serve_handover;
mod serve_idle;
mod serve_memory;
mod serve_sockets;
mod serve_stop;
mod serve_tls;
mod settings_traps;
mod soak;
mod start;
mod usage;
mod verbs;
mod watch;
mod which;
mod whose;
mod witness;
