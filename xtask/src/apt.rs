//! Debian packages.

use crate::{error::Error, process};
use caps::{CapSet, Capability};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::Command,
};

/// What Debian asks before it starts a service, invoke-rc.d(8).
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those that are missing, without questions. Nothing is ever removed to make room, and no service is started:
/// tests run servers by themselves.
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
    eprintln!("installing {}", missing.join(" "));
    let _no_services = NoServices::forbid(Path::new(SERVICE_POLICY))?;
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

/// No service that is installed is started, for as long as this lives.
struct NoServices<'a>(Option<&'a Path>);

impl<'a> NoServices<'a> {
    /// A policy that is there stays.
    fn forbid(policy: &'a Path) -> Result<Self, Error> {
        match File::options().write(true).create_new(true).mode(0o755).open(policy) {
            Ok(mut file) => {
                let made = Self(Some(policy));
                file.write_all(b"#!/bin/sh\nexit 101\n").map_err(Error::file("written", policy))?;
                Ok(made)
            }
            Err(reason) if reason.kind() == ErrorKind::AlreadyExists => Ok(Self(None)),
            Err(reason) => Err(Error::file("written", policy)(reason)),
        }
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(fs::remove_file) {
            eprintln!("warning: {} could not be removed: {error}", SERVICE_POLICY);
        }
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // At run level 1 no package starts its services: they are for tasks that start their own.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    // What it says is no task's result.
    command.stdout(std::io::stderr());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn only_packages_that_are_not_installed_are_missing() {
        assert_eq!(missing(&["libc6", "no-such-package-here", "dpkg"]), ["no-such-package-here"]);
    }

    #[test]
    fn services_stay_off_only_during_an_installation_and_a_policy_of_the_machine_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let policy = directory.path().join("policy-rc.d");
        let forbidden = NoServices::forbid(&policy).expect("it can be written");
        let status = loop {
            match Command::new(&policy).status() {
                // A child of another test holds it open for writing from its fork until it executes its own program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(Duration::from_millis(1)),
                status => break status.expect("it runs"),
            }
        };
        assert_eq!(status.code(), Some(101));
        drop(forbidden);
        assert!(!policy.exists());
        fs::write(&policy, "of the machine").expect("written");
        drop(NoServices::forbid(&policy).expect("it is there"));
        assert_eq!(fs::read_to_string(&policy).expect("it stays"), "of the machine");
    }
}
