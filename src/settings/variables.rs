//! Variables that begin with `DFLOCK_` and are none of ours: a misspelt one must not be passed over in silence.

use std::collections::BTreeMap;

use super::SERVERS;

/// The environment, as text.
pub type Environment = BTreeMap<String, String>;

/// What a job is told of its lock. `DFLOCK_SERVER` is looked at below.
const OF_A_JOB: [&str; 6] = ["DFLOCK_KEY", "DFLOCK_TOKEN", "DFLOCK_LEASE", "DFLOCK_FENCE", "DFLOCK_HELD", "DFLOCK_RUN"];

/// Further ones that are meant: where holders are, and what the unit of the package hands to the server.
const OTHERS: [&str; 2] = ["DFLOCK_RUNTIME_DIR", "DFLOCK_SERVE_OPTIONS"];

const OURS: &str = "DFLOCK_";

const SERVICE_HOST: &str = "_SERVICE_HOST";

/// A variable that nobody reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) name: String,
    pub(super) value: String,
    /// The one that it looks like.
    pub(super) meant: Option<&'static str>,
}

impl Unknown {
    pub(super) fn remark(&self) -> String {
        match self.meant {
            Some(meant) => format!("{} is not a setting; did you mean {meant}?", self.name),
            None => format!("{} is not a setting; man dflock-config lists them", self.name),
        }
    }

    /// Whoever wrote it wanted other servers than those that are asked now.
    pub(super) fn hides_servers(&self) -> bool {
        self.meant == Some(SERVERS) && strsim::damerau_levenshtein(&as_ours(&self.name), SERVERS) <= 2
    }

    /// It is written as ours are; otherwise it may be somebody else's all the same.
    pub(super) fn is_in_our_name(&self) -> bool {
        self.name.starts_with(OURS)
    }
}

/// Those that nobody reads, `known` being all that somebody does. An empty one is how a script unsets it.
pub(super) fn unknown(environment: &Environment, known: &[&'static str]) -> Vec<Unknown> {
    let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let is_job = is_set("DFLOCK_TOKEN") || is_set("DFLOCK_HELD");
    let is_known = |name: &str, value: &str| {
        known.contains(&name)
            || OF_A_JOB.contains(&name)
            || OTHERS.contains(&name)
            || name == "DFLOCK_SERVER" && is_job
            || is_of_a_service(name, value)
    };
    let ours = environment.iter().filter(|(name, value)| {
        !value.is_empty() && (name.starts_with(OURS) || !known.contains(&name.as_str()) && is_nearly_ours(name, known))
    });
    let strange = ours.filter(|(name, value)| !is_known(name, value));
    strange
        .map(|(name, value)| Unknown { name: name.clone(), value: value.clone(), meant: meant(name, known) })
        .collect()
}

/// As it would be called if it were ours: `dflock_servers`, or `DFLOCKD_SERVERS` as if it were the server's.
fn as_ours(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("DFLOCKD_").map_or(name.clone(), |rest| format!("{OURS}{rest}"))
}

/// Of the server's own only those that it does not have; other programs may have small letters.
fn is_nearly_ours(name: &str, known: &[&str]) -> bool {
    let as_ours = as_ours(name);
    if name.starts_with("DFLOCKD_") {
        return strsim::damerau_levenshtein(&as_ours, SERVERS) <= 1;
    }
    as_ours.starts_with(OURS) && known.iter().any(|known| strsim::damerau_levenshtein(&as_ours, known) <= 1)
}

/// What to say where no server is named, but Kubernetes tells of a service that sounds like one: it may be meant, and
/// it is not asked.
pub(super) fn service_remark(environment: &Environment) -> Option<String> {
    let name = environment.keys().find(|name| name.starts_with(OURS) && name.ends_with(SERVICE_HOST))?;
    let service = name.strip_suffix(SERVICE_HOST)?.to_ascii_lowercase().replace('_', "-");
    Some(format!("{name} is of a service of Kubernetes, and is not asked unless {SERVERS}={service} names it"))
}

/// Kubernetes tells every pod of a service `dflock` by `DFLOCK_PORT=tcp://10.0.0.1:6388` and many more.
pub fn is_of_a_service(name: &str, value: &str) -> bool {
    let is_address = name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|of| value.starts_with(of));
    is_address || name.ends_with(SERVICE_HOST) || name.contains("_SERVICE_PORT") || name.contains("_PORT_")
}

fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = as_ours(name);
    let distance = |known: &str| strsim::damerau_levenshtein(&name, known);
    let nearest = known.iter().min_by_key(|known| distance(known))?;
    (distance(nearest) <= 3).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = [SERVERS, "DFLOCK_TIMEOUT", "DFLOCK_AUTH_TOKEN_FILE"];

    fn strange(variables: &[(&str, &str)]) -> Vec<String> {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let unknown = unknown(&variables.iter().map(text).collect(), &KNOWN);
        unknown.iter().map(Unknown::remark).collect()
    }

    #[test]
    fn what_nobody_reads_is_told() {
        assert_eq!(
            strange(&[("DFLOCK_TIMEOT", "1")]),
            ["DFLOCK_TIMEOT is not a setting; did you mean DFLOCK_TIMEOUT?"]
        );
        assert_eq!(strange(&[("DFLOCK_X", "1")]), ["DFLOCK_X is not a setting; man dflock-config lists them"]);
        let others = [("DFLOCK_TIMEOT", ""), ("DFLOCK_KEY", "k"), ("DFLOCKD_X", "1"), ("LANG", "C"), ("dflock_x", "1")];
        assert!(strange(&others).is_empty());
        for name in ["dflock_servers", "Dflock_Servers", "DFLOCKD_SERVERS", "DFLOCKD_SERVER"] {
            assert_eq!(strange(&[(name, "a")]), [format!("{name} is not a setting; did you mean DFLOCK_SERVERS?")]);
        }
    }

    #[test]
    fn the_server_of_a_job_is_a_misspelling_outside_of_one() {
        let server = ("DFLOCK_SERVER", "a:1");
        assert_eq!(strange(&[server]).len(), 1);
        assert_eq!(strange(&[server, ("DFLOCK_TOKEN", "")]).len(), 1);
        assert!(strange(&[server, ("DFLOCK_TOKEN", "t")]).is_empty());
        assert!(strange(&[server, ("DFLOCK_HELD", "k")]).is_empty());
        let hides =
            |name: &str| Unknown { name: name.to_owned(), value: String::new(), meant: Some(SERVERS) }.hides_servers();
        assert!(["DFLOCK_SERVER", "DFLOCK_SEVRERS", "DFLOCK_SERVES"].into_iter().all(hides));
    }

    #[test]
    fn services_of_kubernetes_are_not_settings() {
        for (name, value) in [
            ("DFLOCK_PORT", "tcp://10.0.0.1:6388"),
            ("DFLOCK_SERVICE_HOST", "10.0.0.1"),
            ("DFLOCK_SERVICE_PORT_WIRE", "6388"),
            ("DFLOCK_PORT_6388_TCP_ADDR", "10.0.0.1"),
            ("DFLOCK_SERVER_PORT", "tcp://10.0.0.1:6388"),
        ] {
            assert!(strange(&[(name, value)]).is_empty(), "{name}");
        }
        assert_eq!(strange(&[("DFLOCK_PORT", "7000")]).len(), 1);
    }
}
