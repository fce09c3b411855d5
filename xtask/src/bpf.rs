//! The kernel's programs as objects that are committed, so that users need no BPF toolchain.
//!
//! The same sources and compiler give the same bytes on every machine: paths are remapped, and debug information is cut
//! down to BTF, which holds the types and the source lines that the kernel shows.

mod sources;
mod toolchain;

pub use toolchain::Toolchain;

use crate::{error::Error, process, repository::Repository};
use object::Object as _;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The objects by the names of their binaries, with where they are committed.
const OBJECTS: [(&str, &str); 3] = [
    ("switch", "data-path/kernel/switch.bpf.o"),
    ("host", "data-path/kernel/host.bpf.o"),
    ("bench", "data-path/kernel/bench.bpf.o"),
];
/// What they were built from, and the objects themselves, in the format of `sha256sum`.
const SOURCES: &str = "data-path/kernel/bpf.sources";
const PACKAGE: &str = "data-path/kernel";
const TARGET: &str = "bpfel-unknown-none";
const FLAGS: [&str; 6] = [
    // Instruction set v3, with 32-bit registers and jumps: Linux 5.1 and later.
    "-Ctarget-cpu=v3",
    "-Clinker=bpf-linker",
    "-Clink-arg=--btf",
    "-Cdebuginfo=2",
    // BTF quotes source lines, for the verifier's log: the linker could not find them behind remapped paths.
    "-Zembed-source=yes",
    "-Cdwarf-version=5",
];
/// Between flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Tells whether the committed objects are of the present sources. Needs no toolchain.
///
/// # Errors
/// [`Error::Stale`] names the files that differ.
pub fn check(repository: &Repository) -> Result<(), Error> {
    let path = repository.path(SOURCES);
    let built_from = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    let mut present = sources::list(repository)?;
    for (_, object) in OBJECTS {
        present += &sources::line(object, &repository.path(object))?;
    }
    match sources::difference(&built_from, &present).join(", ") {
        files if files.is_empty() => Ok(()),
        files => Err(Error::Stale(files)),
    }
}

/// Built objects, and what they were built from.
pub struct Built {
    /// The objects.
    pub objects: Vec<Object>,
    sources: String,
}

/// A built object.
pub struct Object {
    /// Where it is, below `target`.
    pub built: PathBuf,
    /// Where it is committed, below the repository's root.
    pub committed: &'static str,
}

/// Builds the objects. Files of the repository are not touched.
pub fn build(repository: &Repository, toolchain: &Toolchain) -> Result<Built, Error> {
    // Listed before the build: an edit during it makes the objects stale rather than pass unseen.
    let sources = sources::list(repository)?;
    let folder = repository.target.join("bpf");
    process::run(toolchain.cargo(repository).arg("fetch").arg("--locked"))?;
    let flags = FLAGS.map(String::from).into_iter().chain(remaps(repository)?).collect::<Vec<_>>().join(SEPARATOR);
    let mut cargo = toolchain.cargo(repository);
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "--target-dir"]).arg(&folder);
    process::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags))?;
    let mut objects = Vec::new();
    for (name, committed) in OBJECTS {
        let (linked, built) = (folder.join(TARGET).join("release").join(name), folder.join(format!("{name}.bpf.o")));
        process::run(toolchain.strip().arg("--strip-debug").arg("-o").arg(&built).arg(linked))?;
        inspect(&read(&built)?, &machine_paths(repository))?;
        objects.push(Object { built, committed });
    }
    Ok(Built { objects, sources })
}

/// Makes built objects, with their sources, the ones to be committed. Returns those that differ from the ones before.
pub fn write(repository: &Repository, built: &Built) -> Result<Vec<&'static str>, Error> {
    let (mut changed, mut listed) = (Vec::new(), built.sources.clone());
    for Object { built, committed } in &built.objects {
        let (object, path) = (read(built)?, repository.path(committed));
        if fs::read(&path).map_or(true, |before| before != object) {
            fs::write(&path, &object).map_err(Error::file("written", path))?;
            changed.push(*committed);
        }
        listed += &sources::line(committed, built)?;
    }
    let path = repository.path(SOURCES);
    fs::write(&path, listed).map_err(Error::file("written", path))?;
    Ok(changed)
}

/// The flags that make source paths the same on every machine. The registry's folder is named after a hash of its address,
/// so that it goes as well.
fn remaps(repository: &Repository) -> Result<Vec<String>, Error> {
    let registry = cargo_home().join("registry/src");
    let mut folders = vec![(repository.root.clone(), "flowlane")];
    for entry in fs::read_dir(&registry).map_err(Error::file("read", &registry))? {
        folders.push((entry.map_err(Error::file("read", &registry))?.path(), "registry"));
    }
    Ok(folders.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect())
}

/// Fails for an object that tells of the machine, or that lacks what the kernel needs to show types and source lines.
fn inspect(object: &[u8], machine_paths: &[PathBuf]) -> Result<(), Error> {
    let mut paths = machine_paths.iter().map(|path| format!("{}/", path.display()));
    if let Some(path) = paths.find(|path| holds_path(object, path.as_bytes())) {
        return Err(Error::MachinePath(path));
    }
    let file = object::File::parse(object)?;
    match [".BTF", ".BTF.ext"].into_iter().find(|name| file.section_by_name(name).is_none()) {
        Some(section) => Err(Error::NoSection(section)),
        None => Ok(()),
    }
}

/// Whether the path occurs, and not just as the middle of another one: /src/ in a repository of that name is not the end
/// of flowlane/data-path/wire/src/.
fn holds_path(object: &[u8], path: &[u8]) -> bool {
    let in_name = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.".contains(octet);
    let mut at = object.windows(path.len()).enumerate().filter(|(_, window)| *window == path);
    at.any(|(at, _)| !at.checked_sub(1).and_then(|before| object.get(before)).is_some_and(in_name))
}

/// The folders whose names differ from machine to machine.
fn machine_paths(repository: &Repository) -> Vec<PathBuf> {
    let folders = [Some(repository.root.clone()), Some(cargo_home()), env::home_dir()];
    folders.into_iter().flatten().filter(|path| path.parent().is_some()).collect()
}

fn cargo_home() -> PathBuf {
    let default = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::ObjectSection;

    fn committed(name: &str) -> Vec<u8> {
        let repository = Repository::find().expect("this repository");
        let (_, path) = OBJECTS.iter().find(|(object, _)| *object == name).expect("an object of this name");
        read(&repository.path(path)).expect("the committed object")
    }

    #[test]
    fn committed_objects_have_types_and_lines_and_no_machine_path() {
        let repository = Repository::find().expect("this repository");
        for (name, _) in OBJECTS {
            inspect(&committed(name), &machine_paths(&repository)).expect("fit to be committed");
        }
    }

    #[test]
    fn committed_objects_quote_source_lines() {
        for (name, line) in [("switch", "#[classifier]"), ("switch", "#[xdp(frags)]"), ("host", "#[classifier]")] {
            let object = committed(name);
            let file = object::File::parse(&*object).expect("an ELF file");
            let types = file.section_by_name(".BTF").and_then(|section| section.data().ok()).expect("the section");
            assert!(types.windows(line.len()).any(|window| window == line.as_bytes()), "{name}: {line}");
        }
    }

    #[test]
    fn machine_path_in_an_object_is_reported() {
        let told = [committed("switch"), b"\0/home/somebody/flowlane/src/main.rs".to_vec()].concat();
        let paths = ["/home/some".into(), "/src".into(), "/home/somebody".into()];
        let error = inspect(&told, &paths).expect_err("it tells");
        assert!(matches!(&error, Error::MachinePath(path) if path == "/home/somebody/"), "{error}");
    }

    #[test]
    fn object_without_source_lines_is_reported() {
        let name = b".BTF.ext\0";
        let mut object = committed("host");
        let at = object.windows(name.len()).rposition(|window| window == name).expect("the section's name");
        object[at + 1] = b'X';
        let error = inspect(&object, &[]).expect_err("no such section");
        assert!(matches!(error, Error::NoSection(".BTF.ext")), "{error}");
    }

    #[test]
    fn every_folder_of_the_registry_is_remapped() {
        let repository = Repository::find().expect("this repository");
        let flags = remaps(&repository).expect("a registry");
        let ours = format!("--remap-path-prefix={}=flowlane", repository.root.display());
        assert_eq!(flags.first(), Some(&ours));
        assert!(flags.len() > 1 && flags[1..].iter().all(|flag| flag.ends_with("=registry")), "{flags:?}");
    }
}
