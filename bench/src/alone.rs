//! One benchmark at a time: all are measured on the same processor, ahead of all other programs, and would starve each other.

use crate::Error;
use std::{fs::File, path::Path};

/// Whoever measures has it locked. On a file system that root alone writes to, and that is empty after a boot.
const LOCK: &str = "/run/flowlane-bench.lock";

/// No other benchmark of this machine measures while this lives, nor does another thread of this process.
pub(crate) struct Alone(#[expect(dead_code, reason = "closed, it is unlocked")] File);

impl Alone {
    /// Waits until all others have ended.
    pub(crate) fn wait() -> Result<Self, Error> {
        Self::at(Path::new(LOCK))
    }

    fn at(path: &Path) -> Result<Self, Error> {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::system("open the benchmark's lock"))?;
        file.lock().map_err(Error::system("wait for another benchmark"))?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread, time::Duration};

    #[test]
    fn a_second_benchmark_waits_for_the_end_of_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let first = Alone::at(&path).expect("nobody else is there");
        let (tell, told) = mpsc::channel();
        let second = thread::spawn(move || {
            let second = Alone::at(&path).expect("the first ends");
            tell.send(()).expect("somebody listens");
            second
        });
        assert_eq!(told.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(first);
        told.recv_timeout(Duration::from_secs(10)).expect("its turn has come");
        second.join().expect("it has it");
    }
}
