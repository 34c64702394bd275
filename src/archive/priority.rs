//! How threads step back behind capture.

use std::io;

/// Gives the calling thread this nice value, and the disk only when nobody else wants it.
///
/// On Linux both belong to the thread, whatever POSIX says of processes (setpriority(2), bugs); threads that it starts have
/// them too.
///
/// # Errors
/// Fails with the first refusal; the other is asked for all the same.
pub fn lower(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; 0 is the calling thread.
    let computing = check(libc::c_long::from(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }));
    // SAFETY: takes no pointers; 0 is the calling thread. No C library has a wrapper (ioprio_set(2)).
    let disk = check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) });
    computing.and(disk)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// include/uapi/linux/ioprio.h: the class stands above 13 bits of data.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;
