//! Has a thread of a running process make a system call, as somebody would who has taken it over (ptrace(2), x86-64).
//!
//! A thread that is stopped in a call stands behind the instruction that made it. That instruction is run again with other
//! registers, and the old ones are put back.

use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// A thread that is stopped; it goes on when this is dropped.
pub struct Captive {
    thread: Pid,
    memory: File,
    before: user_regs_struct,
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    Number(i64),
    Text(&'a str),
}

/// The threads of a process with their names, in the order of their start.
pub fn threads(process: u32) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let path = task.unwrap().path();
            let name = fs::read_to_string(path.join("comm")).unwrap().trim_end().to_owned();
            (path.file_name().unwrap().to_str().unwrap().parse().unwrap(), name)
        })
        .collect();
    threads.sort();
    threads
}

impl Captive {
    /// Stops a thread that waits in a system call, which it does sooner or later.
    pub fn take(thread: i32) -> Self {
        let memory = File::options().read(true).write(true).open(format!("/proc/{thread}/mem")).unwrap();
        let thread = Pid::from_raw(thread);
        for _ in 0..1000 {
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            wait(thread);
            let before = ptrace::getregs(thread).unwrap();
            let mut instruction = [0; 2];
            memory.read_exact_at(&mut instruction, before.rip - 2).unwrap();
            if instruction == SYSCALL {
                return Self { thread, memory, before };
            }
            ptrace::detach(thread, None).unwrap();
            std::thread::sleep(super::ms(1));
        }
        panic!("thread {thread} is never in a system call");
    }

    /// Makes a call; what it gave.
    pub fn call(&self, number: i64, arguments: &[Argument<'_>]) -> Result<i64, Errno> {
        let mut registers = self.before;
        // Below the red zone, where the thread has nothing.
        let mut free = self.before.rsp - 1024;
        let mut values = [0; 6];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => *number as u64,
                Argument::Text(text) => {
                    self.memory.write_all_at(&[text.as_bytes(), b"\0"].concat(), free).unwrap();
                    free += text.len() as u64 + 1;
                    free - text.len() as u64 - 1
                }
            };
        }
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = values;
        registers.rax = number as u64;
        // In no call, so that the kernel does not start one again.
        registers.orig_rax = u64::MAX;
        registers.rip = self.before.rip - 2;
        ptrace::setregs(self.thread, registers).unwrap();
        ptrace::step(self.thread, None).unwrap();
        if wait(self.thread) == Some(Signal::SIGSYS) {
            self.handle();
        }
        let result = ptrace::getregs(self.thread).unwrap().rax as i64;
        if result < 0 { Err(Errno::from_raw(-result as i32)) } else { Ok(result) }
    }

    /// Lets the thread's handler of SIGSYS run, from call to call, until it is back.
    fn handle(&self) {
        let mut signal = Some(Signal::SIGSYS);
        for _ in 0..100 {
            ptrace::syscall(self.thread, signal.take()).unwrap();
            wait(self.thread);
            // The handler may make its calls by the same instruction, but deeper in the stack.
            let now = ptrace::getregs(self.thread).unwrap();
            if (now.rip, now.rsp) == (self.before.rip, self.before.rsp) {
                return;
            }
        }
        panic!("the handler of SIGSYS does not return");
    }
}

impl Drop for Captive {
    fn drop(&mut self) {
        // The thread is gone where a test has failed in the middle.
        let _ = ptrace::setregs(self.thread, self.before);
        let _ = ptrace::detach(self.thread, None);
    }
}

/// Waits until the thread is stopped; by which signal, if by one of its own.
fn wait(thread: Pid) -> Option<Signal> {
    match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
        WaitStatus::Stopped(_, signal) => Some(signal),
        WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_) => None,
        other => panic!("the thread was to stop: {other:?}"),
    }
}

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
