//! What becomes of a system call that a filter refuses: the caller gets an error, and it is counted.
//!
//! The filter raises SIGSYS in the thread instead of the call (SECCOMP_RET_TRAP), and the handler puts the error where the
//! call's result would be. So a list that lacks something costs an error that is told, and not the process. Calls that only
//! newer kernels have come not here: the filter says at once that they are not implemented.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Calls that were refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// How many.
    pub(super) count: u64,
    /// The number of the last of them.
    pub(super) call: i64,
    /// The name of the thread that made it, if it lives.
    pub(super) thread: Option<String>,
}

/// What was refused since the last time, if anything.
pub(super) fn take() -> Option<Refused> {
    let count = COUNT.swap(0, Ordering::Relaxed);
    if count == 0 {
        return None;
    }
    let comm = format!("/proc/self/task/{}/comm", LAST_THREAD.load(Ordering::Relaxed));
    let thread = fs::read_to_string(comm).ok().map(|name| name.trim_end().to_owned());
    Some(Refused { count, call: LAST_CALL.load(Ordering::Relaxed), thread })
}

/// Has refused calls fail instead of ending the process.
pub(super) fn handle() -> Result<(), Errno> {
    // Nested, since a refused call in a handler of another signal would end the process else.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(refuse), flags, SigSet::empty());
    // SAFETY: the handler touches atomics and the interrupted thread's registers only, which is safe at any point.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn refuse(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives the context of the thread that it interrupted, which nobody else looks at.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    let call = registers::call(registers);
    registers::set_result(registers, -i64::from(Errno::EPERM as i32));
    // SAFETY: takes and gives integers only.
    LAST_THREAD.store(unsafe { libc::syscall(libc::SYS_gettid) }, Ordering::Relaxed);
    LAST_CALL.store(call, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static LAST_CALL: AtomicI64 = AtomicI64::new(0);
static LAST_THREAD: AtomicI64 = AtomicI64::new(0);

/// Where a call's number and result are when the kernel has undone the call (syscall_rollback).
#[cfg(target_arch = "x86_64")]
mod registers {
    use libc::{REG_RAX, mcontext_t};

    pub(super) fn call(registers: &mcontext_t) -> i64 {
        registers.gregs[REG_RAX as usize]
    }

    pub(super) fn set_result(registers: &mut mcontext_t, result: i64) {
        registers.gregs[REG_RAX as usize] = result;
    }
}

/// Where a call's number and result are when the kernel has undone the call (syscall_rollback).
#[cfg(target_arch = "aarch64")]
mod registers {
    use libc::mcontext_t;

    pub(super) fn call(registers: &mcontext_t) -> i64 {
        registers.regs[8] as i64
    }

    pub(super) fn set_result(registers: &mut mcontext_t, result: i64) {
        registers.regs[0] = result as u64;
    }
}
