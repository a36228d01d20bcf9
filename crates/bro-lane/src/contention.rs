//! What the kernel says about the CPU that this thread runs on.

/// The CPU that the calling thread runs on; it may be another one right afterwards. Makes no system call.
pub(crate) fn current_cpu() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX - 1)
}

/// How often the kernel took the CPU away from the calling thread for somebody else. One short system call.
pub(crate) fn involuntary_switches() -> u64 {
    // SAFETY: all-zero bytes are a valid `rusage`, which is a struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `rusage` of ours, which the kernel fills.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    debug_assert_eq!(result, 0, "RUSAGE_THREAD is always allowed");
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let known =
            |cpu: u32| cpus.lines().any(|line| line.starts_with("processor") && line.ends_with(&format!(": {cpu}")));
        assert!(known(current_cpu()));
        let before = involuntary_switches();
        assert!(involuntary_switches() >= before);
    }
}
