//! Lets connections in, and turns away those that are too many, without ever spinning.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::log_limit::LogLimit;
use super::session::{self, Arrival};
use super::{Context, Event};
use crate::net::Listener;
use crate::net::listen::Accepted;
use crate::wire::{Answer, Refusal};

/// How long to stand back when accepting fails for no reason that passes by itself.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Runs until dropped.
pub(super) async fn accept_from(listener: Listener, context: Arc<Context>) {
    let mut spare = open_spare();
    let (refusals, failures) = (LogLimit::default(), LogLimit::default());
    let count_refusal = |why| refusals.tell(&context.report, move |count| Event::ConnectionsRefused { why, count });
    loop {
        match listener.accept().await {
            Ok(accepted) if !has_room(&context) => {
                turn_away(accepted);
                count_refusal("--max-memory");
            }
            Ok(accepted) => match context.gate.admit(accepted.origin()) {
                Ok(admission) => {
                    let peer = accepted.peer();
                    let arrival = match accepted {
                        Accepted::Tcp(stream, _) => Arrival::Tcp(stream),
                        Accepted::Unix(stream) => Arrival::Unix(stream),
                    };
                    tokio::spawn(session::serve(arrival, peer, admission, context.clone()));
                }
                Err(why) => {
                    turn_away(accepted);
                    count_refusal(why);
                }
            },
            Err(error) if is_out_of_descriptors(&error) => {
                // With the spare one given up there is room to accept one connection and to say no to it.
                drop(spare.take());
                if let Ok(Ok(accepted)) = tokio::time::timeout(BACK_OFF, listener.accept()).await {
                    turn_away(accepted);
                }
                spare = open_spare();
                count_refusal("no descriptors left: raise the limit (ulimit -n)");
                if spare.is_none() {
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                let error = error.to_string();
                failures.tell(&context.report, move |count| Event::AcceptFailed { error, count });
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn has_room(context: &Context) -> bool {
    let have_tls = context.credentials.get().tls.is_some();
    context.memory.has_room_for_connections(context.gate.connections(), have_tls)
}

fn turn_away(accepted: Accepted) {
    let mut line = Vec::new();
    Answer::Refused(Refusal::MaxConnections).write(&mut line);
    accepted.turn_away(&line);
}

/// A descriptor to give up when there are no others.
fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// The connection was gone before it was accepted.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
