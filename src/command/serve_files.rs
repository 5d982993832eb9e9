//! The files that say who is let in by `dflock serve`, and what it shows: read at its start, and again on SIGHUP.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::Signal;

use crate::error::{Failure, Kind};
use crate::net::tls;
use crate::server::{Credentials, CredentialsInForce, Event, Report};
use crate::settings::secret::Secret;

#[derive(Args, Clone, Debug)]
pub(super) struct CredentialFiles {
    /// Certificate chain to show, as PEM; turns TLS on
    #[arg(long, value_name = "FILE", env = "DFLOCKD_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", env = "DFLOCKD_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Let in only clients with a certificate of this authority, as PEM
    #[arg(long, value_name = "FILE", env = "DFLOCKD_TLS_CLIENT_CA", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// File with the auth token that clients must send, or two, a line each; DFLOCKD_AUTH_TOKEN may hold one instead
    #[arg(long, value_name = "FILE", env = "DFLOCKD_AUTH_TOKEN_FILE")]
    auth_token_file: Option<PathBuf>,
}

impl CredentialFiles {
    pub(super) fn read(&self) -> Result<Credentials, Failure> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(tls::server_config(cert, key, self.tls_client_ca.as_deref())?),
            _ => None,
        };
        let secrets = match (&self.auth_token_file, std::env::var_os("DFLOCKD_AUTH_TOKEN")) {
            (Some(path), _) => Secret::read_one_or_two(path, "auth token")?,
            (None, Some(text)) if !text.is_empty() => {
                vec![Secret::new(text.as_encoded_bytes(), "auth token", "DFLOCKD_AUTH_TOKEN")?]
            }
            _ => Vec::new(),
        };
        Ok(Credentials { tls, secrets: secrets.into_iter().map(Secret::into_bytes).collect() })
    }
}

/// Reads them anew at each hang-up. What cannot be read changes nothing.
pub(super) async fn reload_on(
    mut hangups: Signal,
    files: CredentialFiles,
    in_force: CredentialsInForce,
    report: Report,
) {
    while hangups.recv().await.is_some() {
        let files = files.clone();
        // A file may be a pipe, or on a disk that does not answer.
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        let read = read.unwrap_or_else(|why| Err(Failure::new(Kind::Internal, why.to_string())));
        report(match read {
            Ok(credentials) => {
                let (tokens, tls) = (credentials.secrets.len(), credentials.tls.is_some());
                in_force.replace(credentials);
                Event::Reloaded { tokens, tls }
            }
            Err(failure) => Event::ReloadFailed { error: failure.message },
        });
    }
}
