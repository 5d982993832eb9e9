//! Lets connections in, and turns away those that are too many, without ever spinning.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::admit::{Admission, NO_DESCRIPTORS};
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
    let failures = LogLimit::default();
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                let have_tls = context.credentials.get().tls.is_some();
                let has_memory = |there, is_extra| context.memory.has_room_for_connections(there, have_tls, is_extra);
                match context.gate.admit(accepted.origin(), has_memory) {
                    Ok((admission, None)) => drop(tokio::spawn(let_in(accepted, admission, context.clone()))),
                    Ok((admission, Some(gives_way))) => {
                        drop(tokio::spawn(let_in_for_now(accepted, admission, gives_way, context.clone())));
                    }
                    Err(why) => {
                        turn_away(accepted);
                        context.count_refusal(why);
                    }
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                // With the spare one given up there is room to accept one connection and to say no to it.
                drop(spare.take());
                if let Ok(Ok(accepted)) = tokio::time::timeout(BACK_OFF, listener.accept()).await {
                    turn_away(accepted);
                }
                spare = open_spare();
                context.count_refusal(NO_DESCRIPTORS);
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

fn let_in(accepted: Accepted, admission: Admission, context: Arc<Context>) -> impl Future<Output = ()> {
    let peer = accepted.peer();
    let arrival = match accepted {
        Accepted::Tcp(stream, _) => Arrival::Tcp(stream),
        Accepted::Unix(stream) => Arrival::Unix(stream),
    };
    session::serve(arrival, peer, admission, context)
}

/// Until it has to give way. Who has none of our locks by then is not waited for, and loses nothing.
async fn let_in_for_now(
    accepted: Accepted,
    admission: Admission,
    gives_way: oneshot::Receiver<()>,
    context: Arc<Context>,
) {
    let why = admission.why_extra();
    let session = let_in(accepted, admission, context.clone());
    let gives_way = async {
        // Otherwise it stays.
        if gives_way.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = session => {}
        () = gives_way => if let Some(why) = why { context.count_refusal(why) },
    }
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
