//! The memory that this process may use.

use std::fs;
use std::path::Path;

/// Without any other number: a small host.
const DEFAULT_BYTES: u64 = 512 << 20;
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory of the machine, or of the container or unit if that is less.
pub fn limit() -> u64 {
    let of_machine = fs::read_to_string("/proc/meminfo");
    let of_machine = of_machine.ok().as_deref().and_then(total);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.map(|path| Path::new(CGROUPS).join(path));
    let groups = own.iter().flat_map(|path| path.ancestors());
    let groups = groups.take_while(|path| path.starts_with(CGROUPS));
    let of_groups = groups.filter_map(|path| {
        let text = fs::read_to_string(path.join("memory.max")).ok()?;
        text.trim().parse().ok()
    });
    of_groups.chain(of_machine).min().unwrap_or(DEFAULT_BYTES)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read() {
        let text = "MemTotal:        1015240 kB\nMemFree:          82104 kB\n";
        assert_eq!(total(text), Some(1_015_240 << 10));
        assert_eq!(total("MemFree: 1 kB"), None);
        assert!(limit() > 64 << 20);
    }
}
