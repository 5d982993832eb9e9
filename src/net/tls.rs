//! TLS settings from PEM files. The only reader of PEM: rustls-pemfile gets no releases any more,
//! so replacing it must mean this file alone.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::private::{open_private, refuse_anybodys};
use crate::error::Failure;

/// For `dflock --version`.
pub const PROVIDER: &str = "rustls with ring";

/// What a server shows, and whom it lets in: with `client_ca`, only those with a certificate of it.
pub fn server_config(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, Failure> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| Failure::usage(format!("TLS cannot be set up: {why}")))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(|why| {
                Failure::usage(format!("no client certificate can be checked by {}: {why}", path.display()))
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(certificates(cert)?, private_key(key)?).map_err(|why| {
        Failure::usage(format!("certificate {} and key {} do not fit: {why}", cert.display(), key.display()))
    })?;
    Ok(Arc::new(config))
}

/// Whom a client trusts, and the certificate it shows: without `ca`, whom the system trusts.
pub fn client_config(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::usage(format!("TLS cannot be set up: {why}"));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| cannot(&why))?;
    let builder = match ca {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider())
                .map_err(|why| cannot(&why).hint("no authority of this system can be used; name one with --tls-ca"))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|why| {
            Failure::usage(format!("certificate {} and key {} do not fit: {why}", cert.display(), key.display()))
        })?,
    };
    Ok(Arc::new(config))
}

/// Named in every configuration: a process-wide default could be set twice.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore, Failure> {
    refuse_anybodys(path, "authorities to trust")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|why| {
            Failure::usage(format!("{} holds a certificate that cannot be used: {why}", path.display()))
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = rustls_pemfile::certs(&mut open(path)?).collect::<io::Result<Vec<_>>>();
    let certificates = read.map_err(|why| unreadable(path, &why))?;
    if certificates.is_empty() {
        return Err(Failure::usage(format!("{} holds no certificate", path.display()))
            .hint("it must be a PEM file with a BEGIN CERTIFICATE line"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let file = open_private(path, "private key")?;
    let key = rustls_pemfile::private_key(&mut BufReader::new(file)).map_err(|why| unreadable(path, &why))?;
    key.ok_or_else(|| {
        Failure::usage(format!("{} holds no private key", path.display()))
            .hint("it must be a PEM file with a BEGIN PRIVATE KEY line, without a passphrase")
    })
}

fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    File::open(path).map(BufReader::new).map_err(|why| unreadable(path, &why))
}

fn unreadable(path: &Path, why: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {why}", path.display()))
}
