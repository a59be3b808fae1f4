//! How much memory this device can give.

/// Bytes that a program may take without pushing others out: `MemAvailable` of Linux and Android. `None` if the system does
/// not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Largest resident memory of this process so far, in bytes. `None` if the system does not tell.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Reads a field that the kernel gives in kibibytes.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let meminfo = "MemTotal:        7654321 kB\nMemAvailable:    1234567 kB\n";
        assert_eq!(field(meminfo, "MemAvailable:"), Some(1_264_196_608));
        assert_eq!(field("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert_eq!(field("MemAvailable: many kB\n", "MemAvailable:"), None);
    }
}
