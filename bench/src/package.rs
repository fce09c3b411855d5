//! What has to be installed before it can be compared.

use crate::Error;
use std::{env, path::Path};

/// A Debian package, and the program that is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    name: &'static str,
    program: &'static str,
}

pub(crate) const OVS: Package =
    Package { name: "openvswitch-switch", program: "/usr/lib/openvswitch-switch/ovs-vswitchd" };
pub(crate) const OVS_DPDK: Package =
    Package { name: "openvswitch-switch-dpdk", program: "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk" };
pub(crate) const DPDK: Package = Package { name: "dpdk-dev", program: "dpdk-testpmd" };
pub(crate) const IPERF: Package = Package { name: "iperf3", program: "iperf3" };

impl Package {
    /// The program, if it is there.
    pub(crate) fn program(self) -> Result<&'static str, Error> {
        let Self { name, program } = self;
        if is_there(program) { Ok(program) } else { Err(Error::NotInstalled { program, package: name }) }
    }
}

/// Whether there is such a program: a path, or a name on the PATH.
pub(crate) fn is_there(program: &str) -> bool {
    // Joined to a folder, an absolute path stays what it is.
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        || Path::new(program).is_absolute() && Path::new(program).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_the_package_that_has_it() {
        let package = Package { name: "no-such-package", program: "no-such-program-here" };
        let error = package.program().expect_err("it is not there").to_string();
        assert!(error.contains("no-such-program-here") && error.contains("apt-get install no-such-package"), "{error}");
        assert_eq!(Package { name: "coreutils", program: "sleep" }.program().expect("there"), "sleep");
    }
}
