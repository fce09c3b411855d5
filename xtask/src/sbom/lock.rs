//! What the lock files say: the packages that are linked into a binary.

use super::Crate;
use crate::{error::Error, process, repository::Repository};
use serde::Deserialize;
use std::{collections::BTreeSet, fs, path::Path};

/// A package of a lock file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of what was fetched; none for packages of this repository.
    pub checksum: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

/// The packages whose code is in a binary, itself included: neither what is only built with, nor what is only tested with.
pub fn linked(repository: &Repository, of: &Crate) -> Result<BTreeSet<Package>, Error> {
    let manifest = repository.path(of.folder).join("Cargo.toml");
    let mut cargo = process::cargo();
    cargo.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--manifest-path"]);
    cargo.arg(&manifest).args(["--package", of.name]);
    let tree = process::output(cargo.args(of.target.iter().flat_map(|target| ["--target", target])))?;
    let lock = find(&manifest)?;
    let names: BTreeSet<_> = tree.lines().filter_map(named).collect();
    Ok(lock.package.into_iter().filter(|package| names.contains(&(&*package.name, &*package.version))).collect())
}

/// The package of a line such as `serde v1.0.228` or `serde_derive v1.0.228 (proc-macro)`. A macro runs while something is
/// built; its code is not linked.
fn named(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    (!words.any(|word| word == "(proc-macro)")).then_some((name, version))
}

/// The lock file of the workspace that a manifest is in.
fn find(manifest: &Path) -> Result<Lock, Error> {
    let path = manifest.ancestors().skip(1).map(|folder| folder.join("Cargo.lock")).find(|path| path.is_file());
    let path = path.unwrap_or_else(|| manifest.with_file_name("Cargo.lock"));
    let text = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    toml::from_str(&text).map_err(|error| Error::Sbom(format!("the lock file can not be understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::{KERNEL, PRODUCT};

    #[test]
    fn what_runs_only_while_something_is_built_is_not_linked() {
        assert_eq!(named("serde v1.0.228"), Some(("serde", "1.0.228")));
        assert_eq!(named("flowlane v0.1.0 (/somewhere/flowlane)"), Some(("flowlane", "0.1.0")));
        assert_eq!(named("serde_derive v1.0.228 (proc-macro)"), None);
        assert_eq!(named("serde_derive v1.0.228 (proc-macro) (*)"), None);
        assert_eq!(named(""), None);
    }

    #[test]
    fn the_lock_files_have_checksums_of_all_that_is_linked_from_elsewhere() {
        let repository = Repository::find().expect("this repository");
        for (of, other) in [(&PRODUCT, "redb"), (&KERNEL, "aya-ebpf")] {
            let packages = linked(&repository, of).expect("the lock file");
            assert!(packages.iter().any(|package| package.name == other), "{other}");
            for package in packages {
                assert_eq!(package.checksum.is_none(), package.name.starts_with("flowlane"), "{package:?}");
            }
        }
    }
}
