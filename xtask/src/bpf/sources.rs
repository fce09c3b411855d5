//! What goes into the object: a list of files with their SHA-256, as `sha256sum` writes and checks it.

use crate::{error::Error, repository::Repository};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const FILES: [&str; 5] = [
    "data-path/kernel/Cargo.lock",
    "data-path/kernel/Cargo.toml",
    "data-path/pipeline/Cargo.toml",
    "data-path/tables/Cargo.toml",
    "data-path/wire/Cargo.toml",
];
/// Folders with `.rs` files, at any depth.
const FOLDERS: [&str; 4] =
    ["data-path/kernel/src", "data-path/pipeline/src", "data-path/tables/src", "data-path/wire/src"];

/// Lists all source files, sorted by path.
pub fn list(repository: &Repository) -> Result<String, Error> {
    let mut paths: Vec<PathBuf> = FILES.iter().map(|file| repository.path(file)).collect();
    for folder in FOLDERS {
        add_rust_files(&repository.path(folder), &mut paths)?;
    }
    paths.sort();
    let name = |path: &Path| path.strip_prefix(&repository.root).unwrap_or(path).display().to_string();
    paths.iter().map(|path| line(&name(path), path)).collect()
}

/// The line of one file.
pub fn line(name: &str, path: &Path) -> Result<String, Error> {
    let content = fs::read(path).map_err(Error::file("read", path))?;
    let digest: String = Sha256::digest(content).iter().map(|octet| format!("{octet:02x}")).collect();
    Ok(format!("{digest}  {name}\n"))
}

/// The files that were added, removed or changed from one list to another.
pub fn difference<'a>(from: &'a str, to: &'a str) -> Vec<&'a str> {
    let (from, to) = (by_name(from), by_name(to));
    let names = from.keys().chain(to.keys().filter(|name| !from.contains_key(*name)));
    names.copied().filter(|name| from.get(name) != to.get(name)).collect()
}

fn by_name(list: &str) -> BTreeMap<&str, &str> {
    list.lines().filter_map(|line| line.split_once("  ")).map(|(digest, name)| (name, digest)).collect()
}

fn add_rust_files(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file("read", folder))? {
        let path = entry.map_err(Error::file("read", folder))?.path();
        if path.is_dir() {
            add_rust_files(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one Rust file in each folder.
    fn repository() -> (tempfile::TempDir, Repository) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_path_buf();
        for file in FILES {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, "abc").expect("written");
        }
        for folder in FOLDERS {
            let path = root.join(folder).join("deep");
            fs::create_dir_all(&path).expect("made");
            fs::write(path.join("lib.rs"), folder).expect("written");
        }
        (folder, Repository { target: root.join("target"), root })
    }

    #[test]
    fn list_is_what_sha256sum_writes() {
        let (_folder, repository) = repository();
        let list = list(&repository).expect("a list");
        assert_eq!(list.lines().count(), FILES.len() + FOLDERS.len());
        // FIPS 180-4, example "abc".
        let first = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  data-path/kernel/Cargo.lock";
        assert_eq!(list.lines().next(), Some(first));
    }

    #[test]
    fn every_change_is_seen_and_named() {
        let (_folder, repository) = repository();
        let before = list(&repository).expect("a list");
        fs::write(repository.path("data-path/wire/src/new.rs"), "").expect("added");
        fs::write(repository.path("data-path/tables/src/deep/lib.rs"), "other").expect("changed");
        fs::remove_file(repository.path("data-path/kernel/src/deep/lib.rs")).expect("removed");
        fs::write(repository.path("data-path/wire/src/notes.txt"), "no source").expect("added");
        let after = list(&repository).expect("a list");
        let mut difference = difference(&before, &after);
        difference.sort_unstable();
        let expected =
            ["data-path/kernel/src/deep/lib.rs", "data-path/tables/src/deep/lib.rs", "data-path/wire/src/new.rs"];
        assert_eq!(difference, expected);
    }

    #[test]
    fn no_change_is_no_difference() {
        let (_folder, repository) = repository();
        let list = list(&repository).expect("a list");
        assert!(difference(&list, &list).is_empty());
    }
}
