//! The one processor that everything is measured on.

use crate::Error;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use std::{fs, time::Duration};

/// A processor, and the kernel's thread that does on it what softirqs leave undone.
#[derive(Debug)]
pub(crate) struct Processor {
    number: usize,
    ksoftirqd: ClockId,
}

/// Who has the processor first. Both go ahead of all other programs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The thread goes ahead of those that are behind.
    Ahead = 2,
    /// Threads that are ahead have the processor as soon as they have something to do: a generator leaves it to who forwards
    /// what it has sent.
    Behind = 1,
}

impl Processor {
    /// The last one that this process may use: the first one has most of the machine's interrupts.
    pub(crate) fn last() -> Result<Self, Error> {
        let number = processors().saturating_sub(1);
        let ksoftirqd = clock_of(&format!("ksoftirqd/{number}"))?;
        Ok(Self { number, ksoftirqd })
    }

    /// The first one, for a generator whose contestant has the last one for itself.
    pub(crate) fn first() -> Result<Self, Error> {
        Ok(Self { number: 0, ksoftirqd: clock_of("ksoftirqd/0")? })
    }

    /// The processor as a bit mask; of the first 64.
    pub(crate) fn mask(&self) -> u64 {
        1u64.checked_shl(u32::try_from(self.number).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    /// Keeps the calling thread on the processor, and those that it starts.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        let mut set = CpuSet::new();
        set.set(self.number).map_err(Error::system("choose a processor"))?;
        sched_setaffinity(Pid::from_raw(0), &set).map_err(Error::system("move to a processor"))
    }

    /// The same, with a priority.
    pub(crate) fn keep_with(&self, priority: Priority) -> Result<(), Error> {
        self.keep()?;
        set(priority)
    }

    /// Does work on the processor and says how much processor time it took. The calling thread keeps the priority.
    pub(crate) fn time<T>(&self, priority: Priority, work: impl FnOnce() -> T) -> Result<(T, Duration), Error> {
        self.keep_with(priority)?;
        let before = now(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let done = work();
        Ok((done, now(ClockId::CLOCK_THREAD_CPUTIME_ID)? - before))
    }

    /// Processor time of the kernel's thread so far.
    pub(crate) fn left_undone(&self) -> Result<Duration, Error> {
        now(self.ksoftirqd)
    }

    /// Processor time of all threads of this process so far.
    pub(crate) fn of_this_process(&self) -> Result<Duration, Error> {
        now(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }
}

/// One more than the number of the last processor that this process may use.
pub(crate) fn processors() -> usize {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).rfind(|number| set.is_set(*number).unwrap_or(false)).map_or(1, |last| last + 1)
}

/// A real-time priority, sched(7).
fn set(priority: Priority) -> Result<(), Error> {
    let parameters = libc::sched_param { sched_priority: priority as libc::c_int };
    // SAFETY: the kernel reads the parameters during the call and keeps no reference. 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    nix::errno::Errno::result(result).map(drop).map_err(Error::system("set a thread's priority"))
}

/// The clock of a process's processor time.
pub(crate) fn clock_of_process(process: u32) -> Result<ClockId, Error> {
    let pid = Pid::from_raw(i32::try_from(process).unwrap_or(0));
    clock_getcpuclockid(pid).map_err(Error::system("read the clock of a process"))
}

/// Processor time so far of a process's thread that has this in its name: the first field of proc_pid_schedstat(5).
pub(crate) fn thread_time(process: u32, name: &str) -> Option<Duration> {
    let mut tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten().map(|task| task.path());
    let task = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.contains(name)))?;
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// The clock of a kernel thread's processor time.
fn clock_of(name: &str) -> Result<ClockId, Error> {
    let is_it = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    let entries = fs::read_dir("/proc").map_err(Error::system("list the processes"))?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid =
        pids.find(is_it).ok_or(std::io::ErrorKind::NotFound).map_err(Error::system("find the thread ksoftirqd"))?;
    clock_getcpuclockid(Pid::from_raw(pid)).map_err(Error::system("read the clock of the thread ksoftirqd"))
}

pub(crate) fn now(clock: ClockId) -> Result<Duration, Error> {
    clock_gettime(clock).map(Duration::from).map_err(Error::system("read a clock"))
}
