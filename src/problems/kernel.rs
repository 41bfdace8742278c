//! What the kernel reports about the limits of the process and the machine: files below `/proc` (proc(5)) and `/sys/fs/cgroup`
//! (cgroups(7)). The parsers are pure. Files that a kernel or a container lacks are left out.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::socket_diag::{self, AcceptQueue};

/// Ports in TIME_WAIT are counted by backend only if there are more than this: fewer matter to no port range, and the
/// count takes time that grows with the number of open sockets.
const COUNTED_TIME_WAIT: u64 = 1000;

/// The limits at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelPicture {
    /// Open files of the process, and their limit.
    pub files: Option<[u64; 2]>,
    /// How many local ports the kernel assigns.
    pub ports: Option<u64>,
    /// Local ports in TIME_WAIT that cannot be used again yet, for each remote address.
    pub time_wait: HashMap<SocketAddr, u64>,
    /// Entries of the connection tracking, and their limit.
    pub conntrack: Option<[u64; 2]>,
    /// Packets that conntrack has dropped: that table was full, or entries collided.
    pub conntrack_drops: Option<u64>,
    /// How long a tracked connection may be idle, unless rules say otherwise.
    pub conntrack_timeout: Option<Duration>,
    /// Resident memory of the process and the memory that it may have, in bytes.
    pub memory: Option<[u64; 2]>,
    /// Space of the log directory's file system that the process cannot use, and all of it, in bytes.
    pub log_disk: Option<[u64; 2]>,
    /// The accept queues of this network namespace.
    pub accept_queues: Vec<AcceptQueue>,
}

impl KernelPicture {
    /// Reads all of it. It takes a millisecond, and more with many sockets in TIME_WAIT.
    pub(super) fn read(log_directory: Option<&Path>) -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let number = |path: &str| text(path)?.trim().parse().ok();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let tracked = "/proc/sys/net/netfilter/nf_conntrack_";
        Self {
            files: open_files().zip(limit).map(<[u64; 2]>::from),
            ports: text("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| port_range(&text)),
            time_wait: match reusable(text("/proc/sys/net/ipv4/tcp_tw_reuse").as_deref()) {
                Reuse::All => HashMap::new(),
                reuse => time_wait(reuse, text("/proc/self/net/sockstat").as_deref()),
            },
            conntrack: number(&format!("{tracked}count"))
                .zip(number(&format!("{tracked}max")))
                .map(<[u64; 2]>::from),
            conntrack_drops: text("/proc/net/stat/nf_conntrack").map(|text| sum_of_column(&text, "drop")),
            conntrack_timeout: number(&format!("{tracked}tcp_timeout_established")).map(Duration::from_secs),
            memory: text("/proc/self/status")
                .and_then(|text| kib(&text, "VmRSS:"))
                .zip(memory_limit())
                .map(<[u64; 2]>::from),
            log_disk: log_directory.and_then(disk_space),
            accept_queues: socket_diag::listening().unwrap_or_default(),
        }
    }
}

/// Space of a file system that only root may use counts as used (statvfs(3)).
fn disk_space(directory: &Path) -> Option<[u64; 2]> {
    let space = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    // Some file systems, such as those of containers over a network, have no size.
    (space.f_blocks > 0).then(|| [space.f_blocks.saturating_sub(space.f_bavail), space.f_blocks].map(bytes))
}

/// Since Linux 6.2 the size of the directory is the number of open files; before, it is 0.
fn open_files() -> Option<u64> {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        0 => Some(fs::read_dir(directory).ok()?.count().saturating_sub(1) as u64), // one is this directory
        open => Some(open),
    }
}

/// The number of ports in `ip_local_port_range`, both ends included.
fn port_range(text: &str) -> Option<u64> {
    let mut ends = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    last.checked_sub(first).map(|between| between + 1)
}

/// Which ports in TIME_WAIT the kernel uses again for new connections (`tcp_tw_reuse`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    /// None.
    None,
    /// Those of connections over loopback.
    Loopback,
    /// All, after a second.
    All,
}

fn reusable(text: Option<&str>) -> Reuse {
    match text.map(str::trim) {
        Some("0") => Reuse::None,
        Some("1") => Reuse::All,
        _ => Reuse::Loopback, // the default since Linux 4.19
    }
}

fn time_wait(reuse: Reuse, sockstat: Option<&str>) -> HashMap<SocketAddr, u64> {
    if sockstat.and_then(time_wait_total).is_none_or(|total| total <= COUNTED_TIME_WAIT) {
        return HashMap::new();
    }
    let mut ports = socket_diag::time_wait().unwrap_or_default();
    ports.retain(|remote, _| !(reuse == Reuse::Loopback && remote.ip().is_loopback()));
    ports
}

/// The number of sockets in TIME_WAIT in `sockstat`, of both address families.
fn time_wait_total(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "tw");
    words.nth(1)?.parse().ok()
}

/// The sum of a column of hexadecimal numbers, with a row for each core; 0 without it.
fn sum_of_column(text: &str, name: &str) -> u64 {
    let mut rows = text.lines().map(str::split_ascii_whitespace);
    let Some(index) = rows.next().and_then(|mut names| names.position(|one| one == name)) else { return 0 };
    let value = |mut row: std::str::SplitAsciiWhitespace<'_>| u64::from_str_radix(row.nth(index)?, 16).ok();
    rows.filter_map(value).fold(0, u64::saturating_add)
}

/// The value in KiB after a name in `status` or `meminfo`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory that the process may use: the lowest limit of its control groups, or the machine's memory.
fn memory_limit() -> Option<u64> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = limit_files(&groups);
    let limits = files.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    limits.chain([machine]).min()
}

/// The files with the memory limits of the control groups in `/proc/self/cgroup`, and of the groups above them. In a
/// container the path of the group may be the host's, while only its own group is mounted, at the root.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (Path::new("/sys/fs/cgroup"), "memory.max"),
            one if one.split(',').any(|name| name == "memory") => {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| root.join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_local_ports_includes_both_ends() {
        assert_eq!(port_range("32768\t60999\n"), Some(28_232));
        assert_eq!(port_range("1024 1024"), Some(1));
        assert_eq!([port_range(""), port_range("9 8"), port_range("1"), port_range("a b")], [None; 4]);
    }

    #[test]
    fn the_sockets_in_time_wait_are_read() {
        let text = "sockets: used 290\nTCP: inuse 17 orphan 0 tw 1204 alloc 20 mem 3\nUDP: inuse 4 mem 2\n";
        assert_eq!(time_wait_total(text), Some(1204));
        assert_eq!(
            [time_wait_total(""), time_wait_total("TCP: inuse 1 tw"), time_wait_total("TCP: tw x")],
            [None; 3]
        );
        assert_eq!(
            ["0\n", "1\n", "2\n", ""].map(|text| reusable(Some(text))),
            [Reuse::None, Reuse::All, Reuse::Loopback, Reuse::Loopback]
        );
    }

    #[test]
    fn the_space_of_a_file_system_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let [used, all] = disk_space(folder.path()).unwrap();
        assert!(used <= all && all > 1 << 20, "{used} of {all}");
        assert_eq!(disk_space(&folder.path().join("missing")), None);
        assert_eq!(disk_space(Path::new("/proc")), None, "it has no size");
    }

    #[test]
    fn a_column_is_the_sum_of_its_rows() {
        let text =
            "entries  found drop early_drop\n00000010  00000000 0000000a 1\n00000010  00000000 00000001 2\n";
        assert_eq!(
            ["drop", "early_drop", "found", "insert"].map(|name| sum_of_column(text, name)),
            [11, 3, 0, 0]
        );
        assert_eq!(
            [sum_of_column("", "drop"), sum_of_column("drop\n", "drop"), sum_of_column("drop\nx\n", "drop")],
            [0; 3]
        );
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tpointsman\nVmHWM:\t   10000 kB\nVmRSS:\t    9120 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(9120 * 1024));
        assert_eq!([kib("", "VmRSS:"), kib("VmRSS: x kB", "VmRSS:")], [None; 2]);
        assert_eq!(kib(&format!("VmRSS: {}", u64::MAX), "VmRSS:"), None);
    }

    #[test]
    fn the_limits_of_a_group_and_of_those_above_it_are_looked_for() {
        let paths = |groups: &str| -> Vec<String> {
            limit_files(groups).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            paths("0::/system.slice/pointsman.service\n"),
            [
                "/sys/fs/cgroup/system.slice/pointsman.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(paths("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            paths("5:cpu,memory:/a\n4:cpuset:/a\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes",]
        );
        assert!(paths("\nnonsense\n:\n").is_empty());
    }

    #[test]
    fn this_machine_has_files_ports_and_memory() {
        let picture = KernelPicture::read(None);
        let [open, limit] = picture.files.unwrap();
        assert!(open > 2 && open < limit, "{open} of {limit}");
        assert!(picture.ports.unwrap() > 0);
        let [resident, limit] = picture.memory.unwrap();
        assert!(resident > 0 && resident < limit, "{resident} of {limit}");
    }
}
