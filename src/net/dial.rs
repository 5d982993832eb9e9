//! Making a connection, and saying in words why there is none.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, InvalidMessage};

use super::listen::prepare;
use super::{Address, Stream};

/// TLS as a client speaks it.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    /// The name to expect in the certificate, if not the host's.
    pub name: Option<String>,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there, or nobody can be found.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answers, but is not to be trusted, or does not trust us.
    #[error("{0}")]
    Untrusted(String),
}

/// Connects, TLS handshake included, within `limit`.
pub async fn dial(address: &Address, tls: Option<&Tls>, limit: Duration) -> Result<Stream, DialError> {
    let connecting = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(refused),
            Address::Tcp { host, port } => {
                let tcp = dial_tcp(host, *port).await?;
                prepare(&tcp);
                match tls {
                    None => Ok(Stream::Tcp(tcp)),
                    Some(tls) => secure(tcp, host, tls, limit).await,
                }
            }
        }
    };
    let over = |_| DialError::Unreachable(format!("no answer within {}", in_words(limit)));
    timeout(limit, connecting).await.unwrap_or_else(|elapsed| Err(over(elapsed)))
}

/// Tries the addresses of a name one after the other.
async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let unknown = |why: io::Error| DialError::Unreachable(format!("the name {host:?} cannot be looked up: {why}"));
    let mut last = None;
    for address in lookup_host((host, port)).await.map_err(unknown)? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(why) => last = Some(why),
        }
    }
    Err(last.map_or_else(|| DialError::Unreachable(format!("the name {host:?} has no address")), refused))
}

async fn secure(tcp: TcpStream, host: &str, tls: &Tls, limit: Duration) -> Result<Stream, DialError> {
    let name = tls.name.as_deref().unwrap_or(host);
    let server_name = ServerName::try_from(name.to_owned())
        .map_err(|_| DialError::Untrusted(format!("{name:?} cannot be the name in a certificate; use --tls-name")))?;
    // Its own limit within the whole one, to say which of the two it was.
    let shaking = TlsConnector::from(tls.config.clone()).connect(server_name, tcp);
    match timeout(limit.mul_f64(0.9), shaking).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(why)) => Err(explain(&why, name)),
        Err(_) => Err(DialError::Untrusted(format!(
            "it accepts connections but no TLS handshake came within {}: it may not speak TLS there",
            in_words(limit)
        ))),
    }
}

fn refused(why: io::Error) -> DialError {
    DialError::Unreachable(match why.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => why.to_string(),
    })
}

/// A failed handshake in the user's words.
fn explain(why: &io::Error, name: &str) -> DialError {
    let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let Some(inner) = inner else {
        return DialError::Untrusted(match why.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it closed the connection during the TLS handshake: it may not speak TLS there, or want a client \
                 certificate (--tls-cert)"
                    .to_owned()
            }
            _ => format!("the TLS handshake failed: {why}"),
        });
    };
    DialError::Untrusted(match inner {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS there: leave out --tls, or use its TLS port".to_owned()
        }
        TlsError::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet (is this machine's clock right?)".to_owned()
            }
            CertificateError::UnknownIssuer => {
                "its certificate is of an authority that is not known here: name it with --tls-ca".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is not for {name:?}: use the name it is for, or --tls-name")
            }
            other => format!("its certificate cannot be accepted: {other}"),
        },
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a client certificate: --tls-cert and --tls-key".to_owned()
        }
        TlsError::AlertReceived(alert) => format!("it refused the TLS handshake ({alert:?})"),
        other => format!("the TLS handshake failed: {other}"),
    })
}

/// A duration as a person says it.
fn in_words(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
