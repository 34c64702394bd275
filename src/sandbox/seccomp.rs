//! Which system calls a thread may make (Documentation/userspace-api/seccomp_filter.rst).
//!
//! The process has a list of what is allowed, and threads that take apart what others made have shorter ones. What is not in
//! them fails ([`super::refusals`]). Lists name old calls beside new ones, for other C libraries than the one at hand.

use super::Role;

/// Filters the calling thread, and those that it will start.
///
/// # Errors
/// Says why there can be no filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn filter_process(bpf: bool) -> Result<(), String> {
    super::refusals::handle().map_err(|e| format!("handle SIGSYS: {e}"))?;
    filter::install(&[lists::SHARD, lists::FILES, lists::CONTROL].concat(), &filter::process_conditions(bpf))
}

/// Filters the calling thread further.
///
/// # Errors
/// Says why there can be no filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn filter_thread(role: Role, bpf: bool) -> Result<(), String> {
    match role {
        Role::Shard => filter::install(lists::SHARD, &filter::shard_conditions(bpf)),
        Role::Files => filter::install(&[lists::SHARD, lists::FILES].concat(), &filter::file_conditions()),
        // It has the list of the process, and no capability.
        Role::Asker => Ok(()),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn filter_process(_: bool) -> Result<(), String> {
    Err("not on this processor".to_owned())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn filter_thread(_: Role, _: bool) -> Result<(), String> {
    Ok(())
}

/// From lists to a program in the kernel.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod filter {
    use libc::{BPF_ABS, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    use libc::{SYS_bpf, SYS_clone, SYS_ioctl, SYS_mmap, SYS_mprotect, SYS_openat, SYS_pidfd_send_signal, SYS_socket};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
        sock_filter,
    };
    use std::collections::BTreeMap;
    use std::io;

    /// A call that is allowed with some arguments only: any of the rules, each of whose conditions holds.
    pub(super) type Conditional = (i64, Vec<Vec<Condition>>);

    /// An argument's number, the comparison, and the value.
    pub(super) type Condition = (u8, SeccompCmpOp, u64);

    pub(super) fn process_conditions(bpf: bool) -> Vec<Conditional> {
        let mut conditions = file_conditions();
        // Without this flag it starts a process.
        conditions.push((SYS_clone, vec![vec![has(0, libc::CLONE_THREAD as u64)]]));
        let families = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET];
        conditions.push((SYS_socket, families.map(|family| vec![(0, SeccompCmpOp::Eq, family as u64)]).to_vec()));
        conditions.extend(bpf.then(map_elements));
        conditions
    }

    pub(super) fn file_conditions() -> Vec<Conditional> {
        let mut conditions = memory();
        conditions.push((SYS_openat, vec![]));
        #[cfg(target_arch = "x86_64")]
        conditions.push((libc::SYS_open, vec![]));
        conditions
    }

    pub(super) fn shard_conditions(bpf: bool) -> Vec<Conditional> {
        const WRITING: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
        let mut conditions = memory();
        conditions.push((SYS_openat, vec![vec![lacks(2, WRITING)]]));
        #[cfg(target_arch = "x86_64")]
        conditions.push((libc::SYS_open, vec![vec![lacks(1, WRITING)]]));
        conditions.extend(bpf.then(map_elements));
        conditions
    }

    /// No memory that can be executed, and nothing typed into the terminal in the user's name.
    fn memory() -> Vec<Conditional> {
        let not_executable = || vec![vec![lacks(2, libc::PROT_EXEC as u64)]];
        let input = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| (1, SeccompCmpOp::Ne, request as u32 as u64));
        vec![(SYS_mmap, not_executable()), (SYS_mprotect, not_executable()), (SYS_ioctl, vec![input.to_vec()])]
    }

    /// Looking up, changing and removing an element, and both at once: the commands 1 to 3 and 21 of bpf(2).
    fn map_elements() -> Conditional {
        (SYS_bpf, vec![vec![(0, SeccompCmpOp::Ge, 1), (0, SeccompCmpOp::Le, 3)], vec![(0, SeccompCmpOp::Eq, 21)]])
    }

    fn has(argument: u8, bits: u64) -> Condition {
        (argument, SeccompCmpOp::MaskedEq(bits), bits)
    }

    fn lacks(argument: u8, bits: u64) -> Condition {
        (argument, SeccompCmpOp::MaskedEq(bits), 0)
    }

    /// Has the calling thread make only the calls of these lists, and those that have conditions where they hold.
    pub(super) fn install(lists: &[&[i64]], conditional: &[Conditional]) -> Result<(), String> {
        let program = compile(lists, conditional).map_err(|e| e.to_string())?;
        load(&program).map_err(|e| e.to_string())
    }

    pub(super) fn compile(lists: &[&[i64]], conditional: &[Conditional]) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in lists.iter().copied().flatten() {
            rules.insert(*call, Vec::new());
        }
        for (call, any_of) in conditional {
            let rule = |all_of: &Vec<Condition>| {
                // The kernel looks at 32 bits of each of these arguments, so that others must not decide.
                let condition =
                    |(n, op, value): &Condition| SeccompCondition::new(*n, SeccompCmpArgLen::Dword, op.clone(), *value);
                SeccompRule::new(all_of.iter().map(condition).collect::<Result<_, _>>()?)
            };
            rules.insert(*call, any_of.iter().map(rule).collect::<Result<_, _>>()?);
        }
        let arch: TargetArch = std::env::consts::ARCH.try_into()?;
        let mut program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch)?.try_into()?;
        // A program ends with what becomes of calls that are not in it.
        let trap = program.pop();
        program.extend(unknown_calls());
        program.extend(trap);
        Ok(program)
    }

    /// Has calls that are newer than the oldest kernel of ours fail as they do there. C libraries work on such kernels: they try
    /// a new call, and take the older one where it is not implemented. They may try it with all signals blocked, as glibc does
    /// to start a thread, where SIGSYS would end the process. The numbers of all of these begin with that of
    /// pidfd_send_signal, on every processor.
    fn unknown_calls() -> [sock_filter; 3] {
        let load_number = sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
        let is_new = sock_filter { code: (BPF_JMP | BPF_JGE | BPF_K) as u16, jt: 0, jf: 1, k: SYS_pidfd_send_signal as u32 };
        let not_implemented = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        [load_number, is_new, sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: not_implemented }]
    }

    fn load(program: &BpfProgram) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            // The same structure as the crate's: struct sock_filter (include/uapi/linux/filter.h).
            filter: program.as_ptr().cast_mut().cast(),
        };
        // Before Linux 5.16 a filter else turns speculation off for all that the process does. That is of use where foreign
        // programs run, such as a browser's, and none does here.
        let spec_allow = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // SAFETY: the program outlives the call, which reads as many instructions as it says (seccomp(2)).
        let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, spec_allow, &raw const program) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The lists.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[rustfmt::skip]
mod lists {
    use libc::*;

    /// What a thread that takes packets apart may do.
    pub(super) const SHARD: &[&[i64]] = &[EVERYWHERE, OLD_EVERYWHERE];
    /// What a thread that works with files may do beside that.
    pub(super) const FILES: &[&[i64]] = &[WITH_FILES, OLD_FILES];
    /// What the control plane may do beside that, and who starts threads.
    pub(super) const CONTROL: &[&[i64]] = &[WITH_SOCKETS, OLD_CONTROL];

    /// Use what is open, memory, time, and end. A signal is handled by any thread, and the runtime's handler sends a byte to
    /// itself.
    const EVERYWHERE: &[i64] = &[
        SYS_read, SYS_readv, SYS_pread64, SYS_write, SYS_writev, SYS_lseek, SYS_close, SYS_fstat, SYS_newfstatat, SYS_statx,
        SYS_fcntl, SYS_dup, SYS_ppoll, SYS_getsockopt, SYS_setsockopt, SYS_recvfrom, SYS_sendto,
        SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_membarrier, SYS_get_robust_list, SYS_set_robust_list, SYS_rseq,
        SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_nanosleep, SYS_clock_nanosleep, SYS_sched_yield, SYS_getcpu,
        SYS_sched_getaffinity, SYS_getrandom, SYS_getrusage, SYS_getpid, SYS_gettid, SYS_prctl, SYS_getpriority, SYS_setpriority,
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall, SYS_tgkill, SYS_tkill,
        SYS_exit, SYS_exit_group,
    ];

    /// Make, name, look at and remove files.
    const WITH_FILES: &[i64] = &[
        SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_getdents64, SYS_readlinkat, SYS_faccessat,
        SYS_faccessat2, SYS_statfs, SYS_fstatfs, SYS_getcwd, SYS_ftruncate, SYS_truncate, SYS_fallocate, SYS_fsync, SYS_fdatasync,
        SYS_sync_file_range, SYS_fadvise64, SYS_readahead, SYS_flock, SYS_renameat2, SYS_linkat, SYS_unlinkat, SYS_mkdirat,
        SYS_fchmod, SYS_fchmodat, SYS_utimensat, SYS_umask, SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_ioprio_set,
        SYS_ioprio_get, SYS_dup3, SYS_wait4, SYS_waitid, SYS_sysinfo, SYS_uname,
    ];

    /// Sockets, events, and threads.
    const WITH_SOCKETS: &[i64] = &[
        SYS_socketpair, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername, SYS_shutdown,
        SYS_sendmsg, SYS_sendmmsg, SYS_recvmsg, SYS_recvmmsg, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
        SYS_epoll_pwait2, SYS_pselect6, SYS_eventfd2, SYS_pipe2, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
        SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_rt_sigsuspend,
        SYS_set_tid_address, SYS_prlimit64, SYS_times, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getppid,
        SYS_capget, SYS_capset, SYS_seccomp, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_getscheduler,
    ];

    /// What old C libraries, and musl, use of the calls that newer processors do not have.
    #[cfg(target_arch = "x86_64")]
    const OLD_EVERYWHERE: &[i64] = &[SYS_poll, SYS_stat, SYS_lstat, SYS_time, SYS_arch_prctl, SYS_dup2];
    #[cfg(target_arch = "x86_64")]
    const OLD_FILES: &[i64] = &[
        SYS_access, SYS_getdents, SYS_readlink, SYS_rename, SYS_renameat, SYS_link, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_chmod,
    ];
    #[cfg(target_arch = "x86_64")]
    const OLD_CONTROL: &[i64] = &[
        SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_pipe, SYS_inotify_init, SYS_getrlimit,
    ];

    #[cfg(target_arch = "aarch64")]
    const OLD_EVERYWHERE: &[i64] = &[];
    #[cfg(target_arch = "aarch64")]
    const OLD_FILES: &[i64] = &[SYS_renameat];
    #[cfg(target_arch = "aarch64")]
    const OLD_CONTROL: &[i64] = &[];
}
