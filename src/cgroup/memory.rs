//! How much memory the control group that we are in may take, in either version.

use std::fs;
use std::path::{Path, PathBuf};

/// The least that our own cgroup, and those above it, may take, in bytes. No limit is none, or a number too large for
/// any machine.
pub fn limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let in_one = |path: PathBuf, kind: &str, option: &str, file: &str| {
        let directories = mounts.lines().filter_map(|line| super::directory_in(line, &path, kind, option));
        directories.filter_map(|directory| least(&directory, file)).min()
    };
    let second = super::path_in(&own).and_then(|path| in_one(path, "cgroup2", "", "memory.max"));
    let first = path_in_first(&own).and_then(|path| in_one(path, "cgroup", "memory", "memory.limit_in_bytes"));
    [first, second].into_iter().flatten().min()
}

fn least(directory: &Path, file: &str) -> Option<u64> {
    let limits = directory.ancestors().filter_map(|dir| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok());
    limits.min()
}

/// What `/proc/PID/cgroup` says of memory in version 1.
fn path_in_first(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_has_a_path_for_memory() {
        let text = "5:cpu,memory:/a:b\n4:memoryless:/c\n0::/d\n";
        assert_eq!(path_in_first(text).unwrap(), Path::new("/a:b"));
        assert_eq!(path_in_first("0::/d\n4:pids:/e\n"), None);
    }

    #[test]
    fn a_mount_of_the_first_version_is_known_by_its_controller() {
        let line = |options| format!("41 31 0:38 / /sys/fs/cgroup/x rw,relatime shared:9 - cgroup cgroup rw,{options}");
        let found = |options| super::super::directory_in(&line(options), Path::new("/a"), "cgroup", "memory");
        assert_eq!(found("memory").unwrap(), Path::new("/sys/fs/cgroup/x/a"));
        assert_eq!(found("pids"), None);
    }
}
