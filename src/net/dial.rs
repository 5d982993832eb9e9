//! Making a connection, and saying in words why there is none.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, InvalidMessage};

use super::listen::prepare;
use super::names::look_up;
use super::{Address, Stream};
use crate::error::Kind;

/// TLS as a client speaks it.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    /// The name to expect in the certificate, if not the host's.
    pub name: Option<String>,
}

impl Tls {
    /// The same, for servers that speak HTTP/2 only with who asks for it.
    #[must_use]
    pub fn for_http2(self) -> Tls {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Tls { config: Arc::new(config), name: self.name }
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialKind {
    /// Nobody answers there, or nobody can be found.
    Unreachable,
    /// The machine says that nobody listens there.
    Nobody,
    /// Somebody answers, but is not to be trusted, or does not trust us.
    Untrusted,
    /// Somebody answers, but not as TLS would.
    Strange,
}

impl DialKind {
    /// What that is to a script.
    pub fn failure(self) -> Kind {
        match self {
            DialKind::Unreachable | DialKind::Nobody => Kind::Unreachable,
            DialKind::Untrusted => Kind::Denied,
            DialKind::Strange => Kind::Refused,
        }
    }
}

/// The same in words, with what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    pub kind: DialKind,
    pub message: String,
    pub hint: &'static str,
}

const IS_IT_RUNNING: &str = "is the server running there? --servers or DFLOCK_SERVERS names another";

fn unreachable(message: String) -> DialError {
    DialError { kind: DialKind::Unreachable, message, hint: IS_IT_RUNNING }
}

fn untrusted(message: &str, hint: &'static str) -> DialError {
    DialError { kind: DialKind::Untrusted, message: message.to_owned(), hint }
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
    let over = |_| unreachable(format!("no connection within {}", in_words(limit)));
    timeout(limit, connecting).await.unwrap_or_else(|elapsed| Err(over(elapsed)))
}

/// Tries the addresses of a name one after the other.
async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let unknown = |why: io::Error| unreachable(format!("the name {host:?} cannot be looked up: {why}"));
    let mut last = None;
    for address in look_up(host, port).await.map_err(unknown)? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(why) => last = Some(why),
        }
    }
    Err(last.map_or_else(|| unreachable(format!("the name {host:?} has no address")), refused))
}

async fn secure(tcp: TcpStream, host: &str, tls: &Tls, limit: Duration) -> Result<Stream, DialError> {
    let name = tls.name.as_deref().unwrap_or(host);
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
        untrusted(
            &format!("{name:?} cannot be the name in a certificate"),
            "--tls-name must be a host name or an IP address",
        )
    })?;
    // Its own limit within the whole one, to say which of the two it was.
    let shaking = TlsConnector::from(tls.config.clone()).connect(server_name, tcp);
    match timeout(limit.mul_f64(0.9), shaking).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(why)) => Err(explain(&why, name)),
        Err(_) => Err(DialError {
            kind: DialKind::Unreachable,
            message: format!("it accepts connections, but no TLS handshake came within {}", in_words(limit)),
            hint: "it may be frozen, or not speak TLS there",
        }),
    }
}

fn refused(why: io::Error) -> DialError {
    let kind = match why.kind() {
        io::ErrorKind::ConnectionRefused => DialKind::Nobody,
        _ => DialKind::Unreachable,
    };
    let message = match why.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => why.to_string(),
    };
    DialError { kind, message, hint: IS_IT_RUNNING }
}

/// What a TLS server says after the handshake, as of a client's certificate; `None` for other failures.
pub fn explain_alert(why: &io::Error) -> Option<DialError> {
    match tls_error(why)? {
        TlsError::AlertReceived(alert) => Some(alert_in_words(*alert)),
        _ => None,
    }
}

fn tls_error(why: &io::Error) -> Option<&TlsError> {
    why.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>())
}

fn alert_in_words(alert: AlertDescription) -> DialError {
    match alert {
        AlertDescription::CertificateRequired => {
            untrusted("it wants a client certificate", "name one with --tls-cert and --tls-key")
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::DecryptError => untrusted(
            "it does not accept our client certificate",
            "it must be of an authority that the server trusts (--tls-cert)",
        ),
        other => untrusted(&format!("it refused the TLS handshake ({other:?})"), "its log may say why"),
    }
}

/// A failed handshake in the user's words.
fn explain(why: &io::Error, name: &str) -> DialError {
    let Some(inner) = tls_error(why) else {
        let message = match why.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it closed the connection during the TLS handshake".to_owned()
            }
            _ => format!("the TLS handshake failed: {why}"),
        };
        let hint = "it may not speak TLS there, want a client certificate (--tls-cert), or be starting";
        return DialError { kind: DialKind::Unreachable, message, hint };
    };
    match inner {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => DialError {
            kind: DialKind::Strange,
            message: "it does not speak TLS there".to_owned(),
            hint: "leave out --tls, --tls-ca, --tls-cert and --tls-name, or use its TLS port",
        },
        TlsError::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => untrusted(
                "its certificate has expired",
                "the server needs a new certificate; is this machine's clock right?",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                untrusted("its certificate is not valid yet", "is this machine's clock right?")
            }
            CertificateError::UnknownIssuer => {
                untrusted("its certificate is of an authority that is not known here", "name it with --tls-ca")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => untrusted(
                &format!("its certificate is not for {name:?}"),
                "use the name it is for as the address, or name it with --tls-name",
            ),
            other => untrusted(&format!("its certificate cannot be accepted: {other}"), "the server needs another one"),
        },
        TlsError::AlertReceived(alert) => alert_in_words(*alert),
        other => untrusted(&format!("the TLS handshake failed: {other}"), "its log may say more"),
    }
}

/// A duration as a person says it.
fn in_words(duration: Duration) -> String {
    format!("{}s", (duration.as_secs_f64() * 10.0).round() / 10.0)
}
