//! The toolchain that builds the object: Debian's rustc with the BPF target, bpf-linker, and the LLVM that both share.

use super::TARGET;
use crate::{apt, error::Error, process, repository::Repository};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// In Debian 12 these are in the security updates.
const PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
const RUSTC: &str = "/usr/bin/rustc";
const LLVM: &str = "/usr/lib/llvm-22";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
const LINKER_FEATURES: &str = "llvm-22";

/// A complete toolchain.
pub struct Toolchain {
    /// The folder of bpf-linker.
    linker: PathBuf,
}

impl Toolchain {
    /// Finds what is installed.
    ///
    /// # Errors
    /// [`Error::NoToolchain`] names what is not.
    pub fn find(repository: &Repository) -> Result<Self, Error> {
        let mut lacks = Vec::new();
        if !has_target() {
            lacks.push(format!("{RUSTC} with the target {TARGET} (Debian packages {}, {})", PACKAGES[0], PACKAGES[1]));
        }
        if !llvm_strip().is_file() {
            lacks.push(format!("LLVM in {LLVM} (Debian package {})", PACKAGES[2]));
        }
        match find_linker(repository) {
            Some(linker) if lacks.is_empty() => return Ok(Self { linker }),
            Some(_) => {}
            None => lacks.push(format!("{LINKER} {LINKER_VERSION}")),
        }
        Err(Error::NoToolchain(lacks.join(", ")))
    }

    /// Installs what is missing: packages as root, bpf-linker into `target/tools`.
    pub fn install(repository: &Repository) -> Result<Self, Error> {
        if !has_target() || !llvm_strip().is_file() {
            apt::install(&PACKAGES)?;
        }
        if find_linker(repository).is_none() {
            install_linker(&tools(repository))?;
        }
        Self::find(repository)
    }

    /// Cargo with this compiler and linker, in the folder of the kernel program.
    pub fn cargo(&self, repository: &Repository) -> Command {
        let mut cargo = process::cargo();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.linker.clone()].into_iter().chain(env::split_paths(&path));
        cargo.current_dir(repository.path(super::PACKAGE));
        // The BPF target is not stable: the compiler must be told that it may.
        cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
        cargo.env("PATH", env::join_paths(path).unwrap_or_default());
        cargo
    }

    /// `llvm-strip`.
    pub fn strip(&self) -> Command {
        Command::new(llvm_strip())
    }
}

fn has_target() -> bool {
    let mut rustc = Command::new(RUSTC);
    rustc.env_remove("LD_LIBRARY_PATH").args(["--print", "target-libdir", "--target", TARGET]);
    process::output(&mut rustc).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

fn llvm_strip() -> PathBuf {
    Path::new(LLVM).join("bin/llvm-strip")
}

fn tools(repository: &Repository) -> PathBuf {
    repository.target.join("tools")
}

/// The folder of a bpf-linker of the right version that starts: ours, or one on the PATH.
fn find_linker(repository: &Repository) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = [tools(repository).join("bin")].into_iter().chain(env::split_paths(&path));
    folders.find(|folder| {
        let version = process::output(Command::new(folder.join(LINKER)).arg("--version"));
        version.is_ok_and(|version| version.trim() == format!("{LINKER} {LINKER_VERSION}"))
    })
}

fn install_linker(root: &Path) -> Result<(), Error> {
    let mut cargo = process::cargo();
    cargo.args(["install", LINKER, "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", LINKER_FEATURES, "--root"]).arg(root);
    // The names that llvm-sys and bpf-linker's build script look for.
    process::run(cargo.env("LLVM_SYS_221_PREFIX", LLVM).env("LLVM_PREFIX", LLVM))
}
