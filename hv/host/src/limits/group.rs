//! Limits of the control groups that this process is in, in both versions of Linux' interface.
#![forbid(unsafe_code)]

use std::fs;

/// A limit of a control group, by its names in the two versions.
pub struct GroupLimit {
    /// The controller of version 1.
    pub controller: &'static str,
    /// Its file there.
    pub first: &'static str,
    /// The file of version 2.
    pub second: &'static str,
}

/// Bytes of memory.
pub const MEMORY: GroupLimit =
    GroupLimit { controller: "memory", first: "memory.limit_in_bytes", second: "memory.max" };

/// Processes and threads.
pub const PIDS: GroupLimit = GroupLimit { controller: "pids", first: "pids.max", second: "pids.max" };

impl GroupLimit {
    /// The lowest of those that count for this process, with its file. `None` if there is none.
    pub fn lowest(&self) -> Option<(u64, String)> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = |file: String| {
            let number = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
            Some((number, file))
        };
        self.files(&groups).into_iter().filter_map(limit).min()
    }

    /// The files that count for this process: of its control group and those around it.
    fn files(&self, groups: &str) -> Vec<String> {
        let mut files = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (root, file) = match controllers {
                "" => ("/sys/fs/cgroup".to_owned(), self.second),
                _ if controllers.split(',').any(|name| name == self.controller) => {
                    (format!("/sys/fs/cgroup/{}", self.controller), self.first)
                }
                _ => continue,
            };
            let mut path = path.trim_end_matches('/');
            loop {
                files.push(format!("{root}{path}/{file}"));
                match path.rsplit_once('/') {
                    Some((parent, _)) => path = parent,
                    None => break,
                }
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_both_versions() {
        let groups = "9:name=systemd:/\n8:pids:/x\n4:cpu,memory:/a/b\n0::/c\n";
        assert_eq!(
            MEMORY.files(groups),
            [
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/c/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            PIDS.files(groups),
            [
                "/sys/fs/cgroup/pids/x/pids.max",
                "/sys/fs/cgroup/pids/pids.max",
                "/sys/fs/cgroup/c/pids.max",
                "/sys/fs/cgroup/pids.max"
            ]
        );
    }
}
