//! What servers hold, as a table, as lines, and for Prometheus.

use super::{Document, Of, ServerRow};
use crate::output::{self, Metrics, Table};
use crate::settings::duration::{in_words, seconds};

/// Grants a second, of each server that counts them.
pub(super) type Rates = Vec<Option<f64>>;

/// Two tables: the servers, and what is held or waited for.
pub(super) fn table(document: &Document) -> String {
    table_with(document, &Rates::new())
}

/// The same with rates, where there are any.
pub(super) fn table_with(document: &Document, rates: &Rates) -> String {
    let has_rates = rates.iter().any(Option::is_some);
    let heading = ["SERVER", "STATE", "CONNECTIONS", "GRANTS/S"];
    let mut servers = Table::new(if has_rates { &heading } else { &heading[..3] });
    for (at, ServerRow { server, ok, connections, message, .. }) in document.servers.iter().enumerate() {
        let state = if *ok { "up".to_owned() } else { message.clone().unwrap_or_default() };
        let mut row = vec![server.clone(), state, connections.map_or("-".to_owned(), |count| count.to_string())];
        if has_rates {
            row.push(rates.get(at).copied().flatten().map_or("-".to_owned(), |rate| format!("{rate:.1}")));
        }
        servers.row(row);
    }
    let mut keys = Table::new(&["KEY", "KIND", "HOLDERS", "WAITERS", "LEASE LEFT", "SERVER"]);
    for entry in entries(document) {
        let Entry { key, kind, holders, is_nobodys, limit, waiters, lease_left_s, server } = entry;
        let holders = limit.map_or(holders.to_string(), |limit| format!("{holders}/{limit}"));
        let holders = if is_nobodys { format!("{holders} (not connected)") } else { holders };
        let left = lease_left_s.map_or("-".to_owned(), |left| in_words(seconds(left)));
        keys.row(vec![key.to_owned(), kind.to_owned(), holders, waiters.to_string(), left, server.to_owned()]);
    }
    format!("{}\n{}", servers.render(), keys.render())
}

/// One line for each server and each key, the time in front.
pub(super) fn lines(document: &Document, rates: &Rates, time: &str) -> String {
    let mut text = String::new();
    let mut line = |fields: &[(&'static str, String)]| text.push_str(&format!("{time} {}\n", output::fields(fields)));
    for (at, ServerRow { server, ok, connections, message, .. }) in document.servers.iter().enumerate() {
        let mut fields = vec![("server", server.clone()), ("up", ok.to_string())];
        fields.extend(connections.map(|count| ("connections", count.to_string())));
        fields.extend(rates.get(at).copied().flatten().map(|rate| ("grants_per_s", format!("{rate:.1}"))));
        fields.extend(message.clone().map(|why| ("why", why)));
        line(&fields);
    }
    for entry in entries(document) {
        let Entry { key, kind, holders, is_nobodys, limit, waiters, lease_left_s, server } = entry;
        let mut fields = vec![("server", server.to_owned()), ("key", key.to_owned()), ("kind", kind.to_owned())];
        fields.extend([("holders", holders.to_string()), ("waiters", waiters.to_string())]);
        fields.extend(is_nobodys.then(|| ("connected", "false".to_owned())));
        fields.extend(limit.map(|limit| ("limit", limit.to_string())));
        fields.extend(lease_left_s.map(|left| ("lease_left_s", format!("{left:.1}"))));
        line(&fields);
    }
    text
}

/// A key that is held or waited for, of either kind.
struct Entry<'a> {
    key: &'a str,
    kind: &'static str,
    holders: u64,
    is_nobodys: bool,
    limit: Option<u64>,
    waiters: u64,
    lease_left_s: Option<f64>,
    server: &'a str,
}

fn entries(document: &Document) -> impl Iterator<Item = Entry<'_>> {
    let locks = document.locks.iter().map(|Of { row, server }| Entry {
        key: &row.key,
        kind: "lock",
        holders: u64::from(row.is_held()),
        is_nobodys: row.is_nobodys(),
        limit: None,
        waiters: row.waiters,
        lease_left_s: Some(row.lease_expires_in_s),
        server,
    });
    let semaphores = document.semaphores.iter().map(|Of { row, server }| Entry {
        key: &row.key,
        kind: "semaphore",
        holders: row.holders,
        is_nobodys: false,
        limit: Some(row.limit),
        waiters: row.waiters,
        lease_left_s: None,
        server,
    });
    locks.chain(semaphores)
}

pub(super) fn metrics(document: &Document) -> String {
    let mut metrics = Metrics::default();
    metrics.gauge("dflock_up", "Whether the server answers.");
    for row in &document.servers {
        metrics.sample("dflock_up", &[("server", &row.server)], f64::from(u8::from(row.ok)));
    }
    metrics.gauge("dflock_connections", "Connections of the server.");
    for row in &document.servers {
        if let Some(connections) = row.connections {
            metrics.sample("dflock_connections", &[("server", &row.server)], connections as f64);
        }
    }
    if document.servers.iter().any(|row| row.grants.is_some()) {
        metrics.counter("dflock_grants_total", "Locks and slots that the server has granted.");
    }
    for row in &document.servers {
        if let Some(grants) = row.grants {
            metrics.sample("dflock_grants_total", &[("server", &row.server)], grants as f64);
        }
    }
    metrics.gauge("dflock_lock_lease_seconds", "Time left of the lease of a held lock.");
    for Of { row, server } in &document.locks {
        metrics.sample("dflock_lock_lease_seconds", &[("server", server), ("key", &row.key)], row.lease_expires_in_s);
    }
    metrics.gauge("dflock_waiters", "Who waits for a key.");
    for Of { row, server } in &document.locks {
        let labels = [("server", server.as_str()), ("kind", "lock"), ("key", &row.key)];
        metrics.sample("dflock_waiters", &labels, row.waiters as f64);
    }
    for Of { row, server } in &document.semaphores {
        let labels = [("server", server.as_str()), ("kind", "semaphore"), ("key", &row.key)];
        metrics.sample("dflock_waiters", &labels, row.waiters as f64);
    }
    metrics.gauge("dflock_semaphore_holders", "Slots of a semaphore that are held.");
    for Of { row, server } in &document.semaphores {
        metrics.sample("dflock_semaphore_holders", &[("server", server), ("key", &row.key)], row.holders as f64);
    }
    metrics.gauge("dflock_semaphore_limit", "Slots that a semaphore has.");
    for Of { row, server } in &document.semaphores {
        metrics.sample("dflock_semaphore_limit", &[("server", server), ("key", &row.key)], row.limit as f64);
    }
    metrics.render()
}
