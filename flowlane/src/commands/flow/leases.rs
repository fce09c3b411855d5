//! The leases of this host: one file each, readable by root alone.

use super::dhcp6::Lease;
use flowlane_wire::Mac;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

/// Where the leases are kept.
pub struct Leases {
    directory: PathBuf,
}

impl Leases {
    /// Those in `directory`, which need not exist.
    pub fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Keeps a lease, in place of an older version of it.
    ///
    /// # Errors
    /// Where the file can not be written.
    pub fn keep(&self, lease: &Lease) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        let Some(path) = self.path(lease) else { return Ok(()) };
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(lease)?)?;
        fs::rename(&new, &path)
    }

    /// Forgets a lease.
    pub fn forget(&self, lease: &Lease) {
        // One that stays is over by its time.
        let _ = self.path(lease).map(fs::remove_file);
    }

    /// The lease of an address.
    pub fn find(&self, address: Mac) -> Option<Lease> {
        self.all().into_iter().find(|lease| lease.addresses.contains(&address))
    }

    /// A number that no lease has.
    pub fn free_iaid(&self) -> u32 {
        let taken: Vec<u32> = self.all().iter().map(|lease| lease.iaid).collect();
        // At random, so that two that ask at a time do not get the same lease.
        std::iter::repeat_with(|| fastrand::u32(1..)).find(|iaid| !taken.contains(iaid)).unwrap_or(1)
    }

    /// All leases that are not over. Those that are, are removed.
    fn all(&self) -> Vec<Lease> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let leases = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        let (over, alive): (Vec<Lease>, Vec<Lease>) = leases.filter_map(read).partition(Lease::is_over);
        over.iter().for_each(|lease| self.forget(lease));
        alive
    }

    fn path(&self, lease: &Lease) -> Option<PathBuf> {
        Some(self.directory.join(format!("{}.json", lease.addresses.first()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn lease(lifetime: u32) -> Lease {
        let granted = 1_700_000_000;
        Lease {
            addresses: vec![Mac([0xa2, 0xf1, 0, 0, 0, 8]), Mac([0xa2, 0xf1, 0, 0, 0, 9])],
            interface: "eth0".into(),
            client: "0004ff".into(),
            server: "0004fe".into(),
            iaid: 7,
            granted,
            renew_after: Some(1),
            lifetime: Some(lifetime),
            spec: flowlane_allot::FlowSpec { name: Some("film".into()), ..Default::default() },
        }
    }

    #[test]
    fn a_lease_is_found_by_each_of_its_addresses_until_it_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = Leases::of(directory.path().join("host"));
        let lease = lease(u32::MAX - 1);
        assert_eq!(leases.find(lease.addresses[1]), None);
        leases.keep(&lease).expect("kept");
        assert_eq!(leases.find(lease.addresses[1]), Some(lease.clone()));
        assert_ne!(leases.free_iaid(), 7);
        leases.forget(&lease);
        assert_eq!(leases.find(lease.addresses[0]), None);
    }

    #[test]
    fn a_lease_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        Leases::of(directory.path().to_owned()).keep(&lease(u32::MAX - 1)).expect("kept");
        let file = directory.path().join("a2:f1:00:00:00:08.json");
        assert_eq!(fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lease_that_is_over_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = Leases::of(directory.path().to_owned());
        leases.keep(&lease(1)).expect("kept");
        assert_eq!(leases.find(lease(1).addresses[0]), None);
        assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 0);
    }
}
