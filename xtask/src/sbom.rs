//! What the binary is made of: a CycloneDX document of all that is linked into `flowlane`, and of what is in the kernel's
//! objects inside it. It tells nothing of the machine, and is the same wherever it is made of the same lock files.

mod document;
mod lock;

use crate::{
    error::Error,
    process,
    repository::Repository,
    tools::{self, Tool},
};
use clap::Args;
use document::Document;
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };
/// Where the document goes, below `target`.
const FILE: &str = "sbom/flowlane.cdx.json";
/// What it is about.
const PRODUCT: Crate = Crate { folder: "flowlane", name: "flowlane", target: None };
/// What the objects for the kernel are made of, and those that are in the binary.
const KERNEL: Crate = Crate { folder: "data-path/kernel", name: "flowlane-kernel", target: Some("bpfel-unknown-none") };
const OBJECTS: [&str; 3] =
    ["data-path/kernel/switch.bpf.o", "data-path/kernel/host.bpf.o", "data-path/kernel/bench.bpf.o"];
/// Says when a document was made, for all programs that make documents which are to be the same again.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// How to tell it.
#[derive(Args)]
pub struct Options {
    /// Print the document, and not where it is
    #[arg(long)]
    json: bool,
}

/// A package of this repository that binaries are made of.
struct Crate {
    folder: &'static str,
    name: &'static str,
    /// What it is built for, if not for this machine.
    target: Option<&'static str>,
}

/// Writes the document, once it has been compared with the lock files.
///
/// # Errors
/// [`Error::Sbom`] where a package that is linked is not in it, or without the lock file's checksum, a licence or a package URL.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let program = CYCLONEDX.install(repository)?;
    let mut document = describe(repository, &program, &PRODUCT)?;
    let objects = OBJECTS.iter().map(|object| Ok((*object, sha256(&repository.path(object))?)));
    document.embed(&objects.collect::<Result<Vec<_>, Error>>()?, describe(repository, &program, &KERNEL)?);
    let mut linked = lock::linked(repository, &PRODUCT)?;
    linked.append(&mut lock::linked(repository, &KERNEL)?);
    document.check(&linked)?;
    let (path, text) = (repository.target.join(FILE), document.to_text()?);
    let folder = path.parent().unwrap_or(&path);
    fs::create_dir_all(folder).map_err(Error::file("made", folder))?;
    fs::write(&path, &text).map_err(Error::file("written", &path))?;
    if options.json {
        print!("{text}");
    } else {
        println!("{}: {} packages, {} objects for the kernel", path.display(), linked.len(), OBJECTS.len());
    }
    Ok(())
}

/// What cargo-cyclonedx says of a package. It puts a file beside every manifest of the workspace, which do not stay there.
fn describe(repository: &Repository, program: &Path, of: &Crate) -> Result<Document, Error> {
    let folder = repository.path(of.folder);
    let written = Written(repository.root.clone());
    let mut cyclonedx = tools::command(program);
    cyclonedx.args(["--quiet", "--describe", "crate", "--format", "json", "--spec-version", "1.5"]);
    cyclonedx.args(of.target.iter().flat_map(|target| ["--target", target]));
    cyclonedx.arg("--manifest-path").arg(folder.join("Cargo.toml"));
    // Without it there is a serial number, and another one each time.
    let made = env::var_os(EPOCH);
    process::run(cyclonedx.env(EPOCH, made.as_deref().unwrap_or("0".as_ref())))?;
    let path = folder.join(format!("{}{ENDING}", of.name));
    let text = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    drop(written);
    Document::read(&text, &repository.root, made.is_some())
}

/// How the names end of the files that cargo-cyclonedx writes.
const ENDING: &str = ".cdx.json";

/// The files that it has written in the packages of a repository. They go when this does.
struct Written(PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        // Packages are at most two folders deep.
        let folders = [vec![self.0.clone()], entries(&self.0)].concat();
        let files = folders.iter().filter(|folder| !folder.ends_with("target")).flat_map(|folder| {
            let below = entries(folder);
            let deeper: Vec<_> = below.iter().flat_map(|folder| entries(folder)).collect();
            [below, deeper].concat()
        });
        for file in files.filter(|file| file.to_string_lossy().ends_with(ENDING)) {
            if let Err(error) = fs::remove_file(&file) {
                // The root's own folders are met twice.
                if file.exists() {
                    eprintln!("warning: {} could not be removed: {error}", file.display());
                }
            }
        }
    }
}

/// What is in a folder; nothing where it is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn sha256(path: &Path) -> Result<String, Error> {
    let octets = fs::read(path).map_err(Error::file("read", path))?;
    Ok(Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect())
}
