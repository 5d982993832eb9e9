//! The list of servers: which lock service, its shards, and the members of each.

use crate::net::Address;

/// Where every dflockd client looks if it is told nothing.
pub const DEFAULT: &str = "127.0.0.1:6388";

pub const DEFAULT_PORT: u16 = 6388;
const ETCD_PORT: u16 = 2379;

/// What keeps the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Dflockd,
    Etcd,
}

/// `a,b,c`: three shards. `dflockd://a,b,c`, `etcd://a,b,c`: one shard, a cluster of three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    pub service: Service,
    pub shards: Vec<Vec<Address>>,
    /// Asked for by `tls://`.
    pub tls: bool,
}

impl Servers {
    pub fn parse(list: &str) -> Result<Servers, String> {
        let mut shards: Vec<Vec<Address>> = Vec::new();
        let mut in_cluster = false;
        let (mut secure, mut plain) = (false, false);
        let mut service: Option<Service> = None;
        for item in list.split(',').map(str::trim) {
            let (scheme, rest) = match item.split_once("://") {
                Some((scheme, rest)) if scheme != "unix" => (Some(scheme), rest),
                _ => (None, item),
            };
            if rest.is_empty() {
                return Err(format!("{list:?} has an empty address"));
            }
            // Behind the first member of an etcd come its others.
            let of_etcd = scheme == Some("etcd") || (scheme.is_none() && in_cluster && service == Some(Service::Etcd));
            let this = if of_etcd { Service::Etcd } else { Service::Dflockd };
            if *service.get_or_insert(this) != this {
                return Err("all shards must be of one kind: etcd:// before each of them, or before none".to_owned());
            }
            let address = Address::parse(rest, if of_etcd { ETCD_PORT } else { DEFAULT_PORT })?;
            match scheme {
                Some("dflockd" | "etcd") => in_cluster = true,
                Some("tls") => in_cluster = false,
                Some(other) => {
                    return Err(format!(
                        "{other}:// is not supported: write host:port, dflockd://, etcd://, tls:// or unix:/path"
                    ));
                }
                None => {}
            }
            match (scheme, shards.last_mut()) {
                // Behind a cluster's first member come its others.
                (None, Some(members)) if in_cluster => members.push(address),
                _ => shards.push(vec![address]),
            }
            if scheme == Some("tls") { secure = true } else { plain = true }
        }
        if secure && plain {
            return Err("tls:// must stand before every server or before none".to_owned());
        }
        Ok(Servers { service: service.unwrap_or(Service::Dflockd), shards, tls: secure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(list: &str) -> String {
        let servers = Servers::parse(list).unwrap();
        let shard = |members: &Vec<Address>| members.iter().map(Address::to_string).collect::<Vec<_>>().join("+");
        servers.shards.iter().map(shard).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn shards_and_clusters() {
        assert_eq!(shape("a,b:1,[::1]:2"), "a:6388 b:1 [::1]:2");
        assert_eq!(shape("dflockd://a:1,b:2,c:3"), "a:1+b:2+c:3");
        assert_eq!(shape("dflockd://a,b,dflockd://c,d"), "a:6388+b:6388 c:6388+d:6388");
        assert_eq!(shape("unix:/run/d.sock, a"), "unix:/run/d.sock a:6388");
        assert_eq!(shape("tls://a:1,tls://b:1"), "a:1 b:1");
        assert!(Servers::parse("tls://a:1").unwrap().tls);
    }

    #[test]
    fn an_etcd_is_one_shard_of_many_members() {
        assert_eq!(shape("etcd://a,b:1,[::1]"), "a:2379+b:1+[::1]:2379");
        assert_eq!(shape("etcd://a,b,etcd://c"), "a:2379+b:2379 c:2379");
        assert_eq!(Servers::parse("etcd://a").unwrap().service, Service::Etcd);
        assert_eq!(Servers::parse("dflockd://a,b").unwrap().service, Service::Dflockd);
        for list in ["a,etcd://b", "etcd://a,dflockd://b", "etcd://a,tls://b", "tls://a,etcd://b"] {
            assert!(Servers::parse(list).unwrap_err().contains("of one kind"), "{list}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for list in ["", "a,,b", "ftp://a", "tls://a,b", "a b", "dflockd://"] {
            assert!(Servers::parse(list).is_err(), "{list}");
        }
    }
}
