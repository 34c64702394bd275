//! How threads step back behind capture.

use std::io;

/// Gives the calling thread this nice value, and the last place among those who use the disk in the ordinary way.
///
/// Not the idle class: there the mq-deadline scheduler lets each request wait for 10 s (`prio_aging_expire`) while anybody else
/// uses the disk. A new file needs such requests within a transaction of the file system, for which all others then wait too.
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
    let disk = check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_LAST) });
    computing.and(disk)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// include/uapi/linux/ioprio.h: the class stands above 13 bits of data, which for the best-effort class are 0 to 7, first to last.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_BE: libc::c_int = 2;
const IOPRIO_LAST: libc::c_int = IOPRIO_CLASS_BE << 13 | 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_back_alone_and_not_into_the_idle_class() {
        // SAFETY: takes no pointers; 0 is the calling thread.
        let disk = || unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
        // SAFETY: takes no pointers; 0 is the calling thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = (disk(), nice());
        let thread = std::thread::spawn(move || {
            lower(before.1 + 1).unwrap();
            assert_eq!((disk() >> 13, disk() & 7, nice()), (libc::c_long::from(IOPRIO_CLASS_BE), 7, before.1 + 1));
        });
        thread.join().unwrap();
        assert_eq!((disk(), nice()), before, "the others stay where they were");
    }
}
