//! Certificates made for one test, and TLS clients that use them.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, client,
};

use crate::lines::{Lines, tcp};
use crate::start::private_file;

pub type TlsLines = Lines<StreamOwned<ClientConnection, TcpStream>>;

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What somebody shows to prove who they are.
pub struct Identity {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut about = CertificateParams::new(Vec::new()).expect("parameters");
        about.distinguished_name.push(DnType::CommonName, name);
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        about.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(about, key).expect("a certificate"))
    }

    pub fn issue(&self, name: &str) -> Identity {
        self.issue_as(&CertificateParams::new(vec![name.to_owned()]).expect("parameters"))
    }

    /// For whom and how long `about` says.
    pub fn issue_as(&self, about: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = about.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key }
    }

    /// Its own certificate as a file.
    pub fn write(&self, home: &Path, name: &str) -> String {
        private_file(home, name, self.0.pem())
    }

    /// What a client says that trusts this authority, speaks only `version` and shows `identity`.
    pub fn client(&self, version: &'static SupportedProtocolVersion, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate that can be trusted");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version that is known")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
                let chain = vec![identity.certificate.clone()];
                builder.with_client_auth_cert(chain, key).expect("a certificate that fits its key")
            }
        };
        // Each connection proves itself anew: a resumed one would show no certificate.
        config.resumption = client::Resumption::disabled();
        Arc::new(config)
    }
}

impl Identity {
    /// Certificate and key as files.
    pub fn write(&self, home: &Path, name: &str) -> (String, String) {
        let cert = private_file(home, &format!("{name}.crt"), &self.certificate_pem);
        let key = private_file(home, &format!("{name}.key"), self.key.serialize_pem());
        (cert, key)
    }
}

/// Connects and shakes hands; the error is what TLS says.
pub fn shake_hands(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsLines> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(config.clone(), name).expect("a client");
    let mut stream = tcp(address);
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(Lines::new(StreamOwned::new(session, stream)))
}
