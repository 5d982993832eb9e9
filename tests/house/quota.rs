//! Little processor time for some processes, by a cgroup.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a quota is set, in the first version and in the second.
const PLACES: [(&str, &str, &str); 2] =
    [("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "5000"), ("/sys/fs/cgroup", "cpu.max", "5000 100000")];

/// A twentieth of a processor, for which twenty busy ones ask already.
pub struct Quota {
    dir: PathBuf,
    busy: Vec<Child>,
}

impl Quota {
    /// `None` where there is none to be had.
    pub fn new(name: &str) -> Option<Quota> {
        let made = PLACES.iter().find_map(|(root, file, quota)| {
            let dir = Path::new(root).join(format!("dflock-test-{name}"));
            std::fs::create_dir(&dir).ok()?;
            if std::fs::write(dir.join(file), quota).is_err() {
                let _ = std::fs::remove_dir(&dir);
                return None;
            }
            Some(dir)
        })?;
        let mut quota = Quota { dir: made, busy: Vec::new() };
        for _ in 0..20 {
            let mut busy = Command::new("sh");
            busy.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            quota.busy.push(busy.spawn().expect("a busy one"));
            quota.take_in(quota.busy.last().expect("it is there").id().cast_signed());
        }
        Some(quota)
    }

    /// One that has just ended, or may not be moved, stays where it is.
    pub fn take_in(&self, pid: i32) {
        let _ = std::fs::write(self.dir.join("cgroup.procs"), pid.to_string());
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for busy in &mut self.busy {
            let _ = busy.kill();
        }
        // They go on where they were before.
        let procs = || std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        let above = self.dir.parent().expect("it is below one").join("cgroup.procs");
        super::wait_for("an empty cgroup", || {
            procs().lines().for_each(|pid| drop(std::fs::write(&above, pid)));
            std::fs::remove_dir(&self.dir).is_ok().then_some(())
        });
        for busy in &mut self.busy {
            let _ = busy.wait();
        }
    }
}
