//! Huge pages, which programs with DPDK want.

use crate::Error;
use std::{
    fs,
    sync::{Mutex, PoisonError},
};

const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// How many there were before, while there are more.
static BEFORE: Mutex<Option<u32>> = Mutex::new(None);

/// Pages of 2 MiB for other programs. When this is dropped, as many are left as were there before.
pub(crate) struct HugePages(());

impl HugePages {
    /// So many of them.
    pub(crate) fn get(wanted: u32) -> Result<Self, Error> {
        let before = count()?;
        if before < wanted {
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            fs::write(FILE, wanted.to_string()).map_err(Error::system("reserve huge pages"))?;
        }
        let pages = Self(());
        match count()? {
            had if had < wanted => Err(Error::HugePages { wanted, had }),
            _ => Ok(pages),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves as many as were there before.
pub(crate) fn give_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing depends on it.
        let _ = fs::write(FILE, before.to_string());
    }
}

fn count() -> Result<u32, Error> {
    let text = fs::read_to_string(FILE).map_err(Error::system("count the huge pages"))?;
    Ok(text.trim().parse().unwrap_or(0))
}
