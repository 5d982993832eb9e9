//! How a connection begins and ends: the TLS handshake, and the last bytes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::net::Stream;
use crate::server::{Context, Event};
use crate::wire::{Answer, Refusal};

/// How long, and for how many bytes, a connection that we close is read on, so that our last line arrives.
pub(super) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// How long a TLS handshake may take where there are as many at once as there may be.
const HANDSHAKE_TURN: Duration = Duration::from_millis(500);

/// The first byte of every TLS connection.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;

/// A TLS handshake, bounded in time. A client that does not speak TLS is told so in plain text.
pub(super) async fn secure(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    peer: &str,
    is_extra: bool,
    context: &Context,
) -> Option<Stream> {
    let acceptor = TlsAcceptor::from(tls);
    let shake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != TLS_HANDSHAKE {
            let mut line = Vec::new();
            Answer::Refused(Refusal::Unsaid).write(&mut line);
            linger(Stream::Tcp(stream), &line).await;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        // It takes much memory, so there are only so many at once, besides those for which it is kept.
        let _room = if is_extra { None } else { context.memory.handshake().await };
        let mut shake = pin!(acceptor.accept(stream));
        loop {
            match timeout(HANDSHAKE_TURN, &mut shake).await {
                Ok(shaken) => return shaken,
                Err(_) if context.memory.has_no_room_for_handshakes() => {
                    return Err(io::Error::other("no handshake in time, and there is no room for others"));
                }
                Err(_) => {}
            }
        }
    };
    let error = match timeout(context.read_timeout, shake).await {
        Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no handshake within the read timeout".to_owned(),
    };
    let peer = peer.to_owned();
    context.failed_handshakes.tell(&context.report, move |count| Event::TlsFailed { peer, error, count });
    None
}

async fn linger(stream: Stream, line: &[u8]) {
    linger_after(stream, line, Duration::ZERO).await;
}

/// After the delay, sends the last bytes and reads on for a moment: closing with bytes unread would destroy them on their way.
pub(super) async fn linger_after(mut stream: Stream, bytes: &[u8], delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let _ = timeout(LINGER, async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    })
    .await;
}
