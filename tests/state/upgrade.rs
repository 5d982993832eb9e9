//! A server is replaced under ten thousand held locks: not one of them is disturbed.

use std::process::Stdio;

use crate::house::clean::{House, Running};
use crate::house::proxy::Proxy;
use crate::house::{Client, now, wait_for};
use crate::kept::{Kept, resumable, token_of};

const CONNECTIONS: usize = 1000;
const LOCKS_EACH: usize = 10;
const JOBS: usize = 5;

/// One client with its locks.
struct Fleet {
    client: Client,
    /// Key and token.
    locks: Vec<(String, String)>,
}

impl Fleet {
    fn take(kept: &Kept, number: usize) -> Fleet {
        let mut client = resumable(kept);
        let keys: Vec<String> = (0..LOCKS_EACH).map(|lock| format!("job-{number}-{lock}")).collect();
        let requests: String = keys.iter().map(|key| format!("l\n{key}\n0 600\n")).collect();
        client.send(requests.as_bytes());
        let locks = keys.into_iter().map(|key| (key, token_of(&client.line()))).collect();
        Fleet { client, locks }
    }

    /// On a new connection, as a client does whose old one broke.
    fn resume(&mut self, kept: &Kept) {
        self.client = resumable(kept);
        let requests: String = self.locks.iter().map(|(key, token)| format!("resume\n{key}\n{token} 600\n")).collect();
        self.client.send(requests.as_bytes());
        for (key, _) in &self.locks {
            assert_eq!(self.client.line(), "ok 600", "{key}");
        }
    }
}

#[test]
fn an_upgrade_under_ten_thousand_locks_disturbs_nobody() {
    let mut kept = Kept::start(&[]);
    let proxy = Proxy::to(&kept.server().address);
    let house = House::at(&proxy.address);
    let mut jobs: Vec<Running> = (0..JOBS)
        .map(|number| {
            let mut command = house.command("dflock");
            let job = format!("echo $$ > began-{number}; read line; exit {number}");
            command.args(["exec", "-l", "20", &format!("exec-{number}"), "--", "sh", "-c", &job]);
            Running::start(command.stdin(Stdio::piped()))
        })
        .collect();
    (0..JOBS).for_each(|number| drop(house.wait_for_file(&format!("began-{number}"))));
    let mut fleet: Vec<Fleet> = (0..CONNECTIONS).map(|number| Fleet::take(&kept, number)).collect();

    for upgrade in 0..2 {
        let begin = now();
        kept.stop();
        let stopped = begin.elapsed();
        let opened = kept.start_again().event("state_opened");
        let started = begin.elapsed();
        assert_eq!(opened["held"], CONNECTIONS * LOCKS_EACH + JOBS, "{opened}");
        proxy.point_to(&kept.server().address);
        // Somebody else is faster than those who come back, and gets nothing all the same.
        let mut thief = kept.connect();
        for one in fleet.iter().step_by(37) {
            assert_eq!(thief.ask("l", &one.locks[0].0, "0"), "timeout");
        }
        fleet.iter_mut().for_each(|one| one.resume(&kept));
        let resumed = begin.elapsed();
        wait_for("the jobs' connections", || {
            let stats = kept.connect().stats();
            let owned = stats["locks"].as_array()?.iter().filter(|lock| lock["owner_conn_id"] != 0).count();
            (owned == CONNECTIONS * LOCKS_EACH + JOBS).then_some(())
        });
        eprintln!(
            "upgrade {upgrade}: down after {stopped:?}, up after {started:?}, all 10000 resumed after {resumed:?}"
        );
        assert!(jobs.iter_mut().all(Running::is_running));
    }
    for (number, mut job) in jobs.into_iter().enumerate() {
        job.go_on();
        let said = job.finish();
        assert_eq!((said.code, said.err.as_str()), (number as i32, ""), "{said:?}");
    }
}
