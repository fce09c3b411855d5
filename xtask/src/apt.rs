//! Debian packages.

use crate::{error::Error, process};
use caps::{CapSet, Capability};
use std::process::Command;

/// Installs those that are missing, without questions. Nothing is ever removed to make room.
pub fn install(packages: &[&str]) -> Result<(), Error> {
    if !process::exists("apt-get") || !process::exists("dpkg-query") {
        return Err(Error::NoApt(packages.join(" ")));
    }
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE).unwrap_or(false) {
        return Err(Error::PackagesNeedRoot(missing.join(" ")));
    }
    println!("installing {}", missing.join(" "));
    process::run(apt_get().args(["-qq", "update"]))?;
    process::run(apt_get().args(["-qq", "install", "--yes", "--no-install-recommends", "--no-remove"]).args(missing))
}

fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    let status = process::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_are_not_installed_are_missing() {
        assert_eq!(missing(&["libc6", "no-such-package-here", "dpkg"]), ["no-such-package-here"]);
    }
}
