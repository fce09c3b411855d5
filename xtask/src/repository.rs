//! Where things are.

use crate::error::Error;
use std::{
    env,
    path::{Path, PathBuf},
};

/// This clone of the repository.
pub struct Repository {
    /// The folder of the workspace's Cargo.toml, absolute, without links.
    pub root: PathBuf,
    /// Where builds go: `target`, or what `CARGO_TARGET_DIR` says.
    pub target: PathBuf,
}

impl Repository {
    /// The one that this program was started in by cargo.
    pub fn find() -> Result<Self, Error> {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).join("..");
        let root = root.canonicalize().map_err(Error::file("found", &root))?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
        Ok(Self { root, target })
    }

    /// The absolute path of something in the repository.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}
