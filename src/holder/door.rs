//! Lets commands in, hears what they ask, and says what the holder answers.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::control::{self, Reply, Request};

/// What arrives from a command.
pub(super) type Asked = (Request, oneshot::Sender<Reply>);

/// Lets commands of this user in.
pub(super) async fn accept(listener: UnixListener, ask: mpsc::Sender<Asked>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if control::is_allowed(&stream) {
            tokio::spawn(converse(stream, ask.clone()));
        }
    }
}

/// One request and its answer. A command that goes away while it waits takes its wait with it.
async fn converse(mut stream: UnixStream, ask: mpsc::Sender<Asked>) {
    let Ok(Ok(Some(request))) = timeout(control::PROMPT, control::receive::<Request>(&mut stream)).await else {
        return;
    };
    let (reply, mut answer) = oneshot::channel();
    if ask.send((request, reply)).await.is_err() {
        return;
    }
    let mut byte = [0];
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = stream.read(&mut byte) => {
            answer.close();
            // Any request will do to have it looked at who still waits.
            let _ = ask.send((Request::Status, oneshot::channel().0)).await;
            return;
        }
    };
    if let Ok(answer) = answer {
        let _ = timeout(control::PROMPT, control::send(&mut stream, &answer)).await;
    }
}
