//! From settings to a backend: directly, or by way of what a holder is told.

use std::sync::Arc;

use super::autostart;
use crate::backend::{Backend, dflockd, etcd};
use crate::client::Access;
use crate::client::cluster::Shard;
use crate::error::Failure;
use crate::holder::Site;
use crate::net::{Tls, tls};
use crate::settings::Settings;
use crate::settings::servers::{self, Servers, Service};

/// For what waits for a lock: a server that cannot be reached is tried again, or started if it may be.
pub(crate) fn site_that_waits(settings: &Settings) -> Result<Site, Failure> {
    let connect_retry = settings.connect_retry_while_waiting();
    Ok(Site { connect_retry, autostart: settings.autostart, ..site_of(settings)? })
}

/// What a holder needs of the settings. Relative paths are made absolute: a holder lives in `/`.
pub(crate) fn site_of(settings: &Settings) -> Result<Site, Failure> {
    let absolute = |path: &std::path::PathBuf| {
        std::path::absolute(path).map_err(|why| Failure::internal(&format!("find {}", path.display()), &why))
    };
    let identity = settings.tls_cert.as_ref().zip(settings.tls_key.as_ref());
    let servers = settings.found.iter().find(|found| found.name == "servers");
    Ok(Site {
        servers: servers.map_or_else(|| servers::DEFAULT.to_owned(), |found| found.value.clone()),
        shard: settings.shard,
        tls: settings.tls,
        tls_ca: settings.tls_ca.as_ref().map(absolute).transpose()?,
        tls_identity: identity.map(|(cert, key)| Ok((absolute(cert)?, absolute(key)?))).transpose()?,
        tls_name: settings.tls_name.clone(),
        secret: settings.secret.clone().map(crate::settings::secret::Secret::into_bytes),
        allow_plaintext_secret: settings.allow_plaintext_token,
        etcd_prefix: settings.etcd_prefix.clone(),
        etcd_login: settings.etcd_login.clone().map(|(user, password)| (user, password.into_bytes())),
        connect_timeout: settings.connect_timeout,
        connect_retry: settings.connect_retry_otherwise(),
        is_default: settings.servers_are_default,
        autostart: false,
    })
}

/// The lock service that a site names.
pub(crate) fn backend_of(site: &Site) -> Result<Backend, Failure> {
    let servers = Servers::parse(&site.servers).map_err(Failure::usage)?;
    let tls = if site.tls {
        let identity = site.tls_identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let config = tls::client_config(site.tls_ca.as_deref(), identity)?;
        Some(Tls { config, name: site.tls_name.clone() })
    } else {
        None
    };
    match servers.service {
        Service::Dflockd => Ok(dflockd_of(site, servers, tls)),
        Service::Etcd => Ok(etcd_of(site, servers, tls)),
    }
}

fn etcd_of(site: &Site, servers: Servers, tls: Option<Tls>) -> Backend {
    let login = site.etcd_login.clone().map(|(user, password)| etcd::Login { user, password });
    let access = etcd::Access {
        tls: tls.map(Tls::for_http2),
        login,
        allow_plaintext_login: site.allow_plaintext_secret,
        connect_timeout: site.connect_timeout,
        connect_retry: site.connect_retry,
    };
    let layout = etcd::Layout::new(site.etcd_prefix.clone());
    Backend::Etcd(etcd::Servers::new(servers.shards, site.shard, &access, layout))
}

fn dflockd_of(site: &Site, servers: Servers, tls: Option<Tls>) -> Backend {
    let access = Access {
        tls,
        secret: site.secret.as_deref().map(Arc::from),
        allow_plaintext_secret: site.allow_plaintext_secret,
        connect_timeout: site.connect_timeout,
        connect_retry: site.connect_retry,
        resume_s: None,
        starter: autostart::starter(site),
        starts_silently: false,
        is_unnamed: site.is_default,
    };
    let shards = servers.shards.into_iter().map(|members| Shard { members }).collect();
    Backend::Dflockd(dflockd::Servers::new(shards, site.shard, access))
}
