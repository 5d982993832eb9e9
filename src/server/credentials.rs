//! Who is let in, and what the server shows of itself: read anew while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use subtle::{Choice, ConstantTimeEq};
use tokio_rustls::rustls::ServerConfig;

#[derive(Clone, Default)]
pub struct Credentials {
    pub tls: Option<Arc<ServerConfig>>,
    /// Any of them is good; with none, nobody is asked for one.
    pub secrets: Vec<Vec<u8>>,
}

impl Credentials {
    pub(super) fn has_secret(&self) -> bool {
        !self.secrets.is_empty()
    }

    pub(super) fn longest_secret(&self) -> usize {
        self.secrets.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Takes the same time wherever the two differ, and whichever is the right one.
    pub(super) fn is_secret(&self, given: &[u8]) -> bool {
        self.secrets.iter().fold(Choice::from(0), |found, expected| found | is_same(given, expected)).into()
    }
}

fn is_same(given: &[u8], expected: &[u8]) -> Choice {
    if expected.is_empty() {
        return Choice::from(0);
    }
    let mut same = given.len().ct_eq(&expected.len());
    for (byte, expected) in given.iter().zip(expected.iter().cycle()) {
        same &= byte.ct_eq(expected);
    }
    same
}

/// Those in force. Whoever is inside stays inside when they change.
#[derive(Clone)]
pub struct CredentialsInForce(Arc<RwLock<Arc<Credentials>>>);

impl CredentialsInForce {
    pub(super) fn new(credentials: Credentials) -> CredentialsInForce {
        CredentialsInForce(Arc::new(RwLock::new(Arc::new(credentials))))
    }

    pub(super) fn get(&self) -> Arc<Credentials> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, credentials: Credentials) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }
}
