//! The system call filter of `RuntimeDefault`: what ordinary programs need, and nothing that reaches around a container.
//!
//! A list of what is allowed, so that a call which the kernel learns tomorrow is refused until somebody has thought about
//! it. Some calls come with a capability that makes them sensible; the rest are refused with EPERM, and unknown-to-us
//! newer ones with ENOSYS, so that the C library falls back to older ones.

use serde_json::{Value, json};

/// Calls that every container may use, by what they are for.
const ALLOWED: &[&[&str]] = &[
    // Files and directories.
    &[
        "access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fadvise64",
        "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock",
        "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "getxattrat",
        "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link", "linkat", "listxattr", "listxattrat",
        "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open",
        "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
        "removexattr", "removexattrat", "rename", "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "setxattrat", "splice", "stat", "statfs", "statx",
        "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "umask", "unlink", "unlinkat", "ustat", "utime", "utimensat", "utimes",
        "vmsplice", "write", "writev", "chroot", "cachestat", "statmount", "listmount", "file_getattr", "file_setattr",
    ],
    // Memory.
    &[
        "brk", "get_mempolicy", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap",
        "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "process_madvise",
        "process_mrelease", "remap_file_pages",
    ],
    // Processes and threads. `clone` is restricted further below.
    &[
        "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue", "futex_wait", "futex_waitv",
        "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
        "getpriority", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "landlock_add_rule",
        "landlock_create_ruleset", "landlock_restrict_self", "modify_ldt", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64", "ptrace",
        "process_vm_readv", "process_vm_writev", "rseq", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
        "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
        "sched_yield", "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setpgid",
        "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setuid", "sysinfo", "times", "uname", "uretprobe", "uprobe",
        "vfork", "wait4", "waitid", "getrandom", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr",
    ],
    // Signals, timers and clocks (reading; setting them needs a capability).
    &[
        "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "kill", "nanosleep", "pause", "restart_syscall",
        "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
        "setitimer", "sigaltstack", "signalfd", "signalfd4", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
        "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "tkill", "adjtimex", "clock_adjtime",
    ],
    // Waiting for events.
    &[
        "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2",
        "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "pipe", "pipe2", "poll", "ppoll", "pselect6", "select",
    ],
    // Sockets and other talk between processes. `socket` is restricted further below.
    &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "mq_getsetattr", "mq_notify", "mq_open",
        "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "recvfrom", "recvmmsg", "recvmsg", "semctl", "semget", "semop",
        "semtimedop", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "socketpair",
    ],
    // The same under the names that 32-bit programs use.
    &[
        "_llseek", "_newselect", "chown32", "clock_adjtime64", "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64", "fadvise64_64", "fchown32",
        "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftruncate64", "futex_time64", "getegid32", "geteuid32", "getgid32", "getgroups32", "getresgid32",
        "getresuid32", "getuid32", "io_pgetevents_time64", "ipc", "lchown32", "lstat64", "mmap2", "mq_timedreceive_time64", "mq_timedsend_time64",
        "ppoll_time64", "pselect6_time64", "recv", "recvmmsg_time64", "rt_sigtimedwait_time64", "sched_rr_get_interval_time64", "semtimedop_time64", "send",
        "sendfile64", "setfsgid32", "setfsuid32", "setgid32", "setgroups32", "setregid32", "setresgid32", "setresuid32", "setreuid32", "setuid32", "sigaction",
        "signal", "sigprocmask", "sigreturn", "socketcall", "stat64", "statfs64", "timer_gettime64", "timer_settime64", "timerfd_gettime64",
        "timerfd_settime64", "truncate64", "ugetrlimit", "utimensat_time64", "waitpid",
    ],
];

/// Calls that come with a capability.
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf", "clone3", "clone", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr", "move_mount",
            "open_tree", "open_tree_attr", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount",
            "umount2", "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    ("SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["mbind", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// The bits of `clone`'s flags that make namespaces.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
/// `AF_VSOCK`: talks to the machine's hypervisor, past every network policy.
const VSOCK: u64 = 40;
/// `AF_ALG`: the kernel's crypto interface, a frequent source of holes.
const ALG: u64 = 38;

/// The filter as OCI JSON, for a container with these capabilities.
#[must_use]
pub fn runtime_default(capabilities: &[&str]) -> Value {
    let mut rules: Vec<Value> = ALLOWED.iter().map(|names| json!({ "names": names, "action": "SCMP_ACT_ALLOW" })).collect();
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(json!({ "names": names, "action": "SCMP_ACT_ALLOW" }));
        }
    }
    if !capabilities.contains(&"SYS_ADMIN") {
        let none_of = |value: u64| json!([{ "index": 0, "value": value, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]);
        rules.push(json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": none_of(NAMESPACE_FLAGS) }));
        // Its flags are behind a pointer, which a filter cannot follow: the C library falls back to `clone`.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    for family in [(0..ALG), (ALG + 1..VSOCK)] {
        // A range as single values would be long; what lies between the two is compared from both sides.
        if family.start == 0 {
            rules.push(json!({ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": ALG, "op": "SCMP_CMP_LT" }] }));
        } else {
            for value in family {
                rules.push(json!({ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }] }));
            }
        }
    }
    rules.push(json!({ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": VSOCK, "op": "SCMP_CMP_GT" }] }));
    for personality in [0x0_u64, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff] {
        rules.push(json!({ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": personality, "op": "SCMP_CMP_EQ" }] }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn architectures() -> Value {
    match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_for<'a>(filter: &'a Value, name: &str) -> Vec<&'a Value> {
        filter["syscalls"].as_array().unwrap().iter().filter(|rule| rule["names"].as_array().unwrap().iter().any(|listed| listed == name)).collect()
    }

    #[test]
    fn dangerous_calls_are_not_on_the_list() {
        let filter = runtime_default(&["CHOWN", "NET_RAW"]);
        for name in ["mount", "setns", "unshare", "bpf", "keyctl", "add_key", "kexec_load", "init_module", "reboot", "swapon", "userfaultfd", "io_uring_setup", "open_by_handle_at"] {
            assert!(rules_for(&filter, name).is_empty(), "{name}");
        }
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn a_capability_brings_its_calls() {
        assert_eq!(rules_for(&runtime_default(&["SYS_ADMIN"]), "mount").len(), 1);
        assert_eq!(rules_for(&runtime_default(&["SYS_TIME"]), "clock_settime").len(), 1);
    }

    #[test]
    fn new_namespaces_need_a_capability() {
        let filter = runtime_default(&[]);
        assert_eq!(rules_for(&filter, "clone3")[0]["errnoRet"], libc::ENOSYS);
        assert_eq!(rules_for(&filter, "clone")[0]["args"][0]["value"], NAMESPACE_FLAGS);
    }

    #[test]
    fn the_filter_is_one_that_libcontainer_reads() {
        let filter: libcontainer::oci_spec::runtime::LinuxSeccomp = serde_json::from_value(runtime_default(&["SYS_ADMIN"])).unwrap();
        assert!(filter.syscalls().as_ref().unwrap().len() > 10);
    }
}
