//! The flags that name servers, TLS and the secret, the same for every verb.

use clap::Args;

use crate::error::Failure;
use crate::output;
use crate::settings::{Flags, Settings};

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Servers")]
pub struct Target {
    /// Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster
    /// [default: 127.0.0.1:6388]
    #[arg(short, long, value_name = "LIST")]
    servers: Option<String>,

    /// Start no server on this machine, as autostart = false in the settings
    #[arg(long)]
    require_server: bool,

    /// Use this shard, counted from 0, whatever the key
    #[arg(long, value_name = "N")]
    shard: Option<usize>,

    /// Speak TLS, as the options below mean too
    #[arg(long)]
    tls: bool,

    /// Trust this authority instead of the system's, as PEM
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<String>,

    /// Certificate to show, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,

    /// Private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,

    /// Name to expect in the server's certificate instead of its host name
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,

    /// File with the auth token that the server asks for, of mode 600, or 640 if a group may know it
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<String>,

    /// Send the auth token, or the password for etcd, in clear text to other machines too
    #[arg(long)]
    allow_plaintext_token: bool,

    /// In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other
    #[arg(long, value_name = "PREFIX")]
    etcd_prefix: Option<String>,

    /// User to log in to etcd as
    #[arg(long, value_name = "NAME")]
    etcd_user: Option<String>,

    /// File with that user's password, of mode 600, or 640 if a group may know it
    #[arg(long, value_name = "FILE")]
    etcd_password_file: Option<String>,

    /// How long a connection may take, TLS included [default: 5s]
    #[arg(long, value_name = "DUR")]
    connect_timeout: Option<String>,

    /// How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]
    #[arg(long, value_name = "DUR")]
    connect_retry: Option<String>,
}

impl Target {
    /// The settings in force, `more` being flags of the verb that are settings too.
    pub fn settings(&self, more: Flags) -> Result<Settings, Failure> {
        let mut flags = more;
        let mut put = |name, value: &Option<String>| {
            if let Some(value) = value {
                flags.push((name, value.clone()));
            }
        };
        let yes = |set: bool| set.then(|| "true".to_owned());
        put("servers", &self.servers);
        put("shard", &self.shard.map(|shard| shard.to_string()));
        put("tls", &yes(self.tls));
        put("tls_ca", &self.tls_ca);
        put("tls_cert", &self.tls_cert);
        put("tls_key", &self.tls_key);
        put("tls_name", &self.tls_name);
        put("auth_token_file", &self.auth_token_file);
        put("allow_plaintext_token", &yes(self.allow_plaintext_token));
        put("etcd_prefix", &self.etcd_prefix);
        put("etcd_user", &self.etcd_user);
        put("etcd_password_file", &self.etcd_password_file);
        put("connect_timeout", &self.connect_timeout);
        put("connect_retry", &self.connect_retry);
        if self.require_server {
            flags.push(("autostart", "false".to_owned()));
        }
        let settings = Settings::load(flags)?;
        settings.remarks.iter().for_each(|remark| output::remark(remark));
        Ok(settings)
    }
}
