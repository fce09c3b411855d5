//! The store against restarts, power loss, full disks and damage.

use super::*;
use fastrand::Rng;
use flowlane_allot::{Allotter, ClientId, FlowSpec, LeaseKey, Policy, Request};
use flowlane_durability::Disk;
use flowlane_wire::PortId;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use tempfile::TempDir;

fn block() -> Block {
    Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, 4096).expect("a good block")
}

fn moment(boot: &str, boot_ms: u64, wall_ms: u64) -> Moment {
    Moment { boot_id: boot.into(), boot_ms, wall_ms }
}

fn now() -> Moment {
    moment("first", 1_000, 1_000_000)
}

fn key(iaid: u32) -> LeaseKey {
    LeaseKey { client: ClientId(vec![0, 1, 2]), iaid }
}

fn request(iaid: u32, count: u32) -> Request {
    let spec = FlowSpec { name: Some(format!("flow {iaid}")), rate: Some(1_000_000), ..FlowSpec::default() };
    Request { key: key(iaid), port: PortId(3), host: Mac([2, 0, 0, 0, 0, 1]), count, lifetime: None, spec }
}

fn allotter() -> Allotter {
    Allotter::new(block(), Policy { quarantine: 100, ..Policy::default() }, 5_000)
}

/// Grants leases of one address each.
fn grant(allotter: &mut Allotter, iaids: std::ops::Range<u32>) {
    for iaid in iaids {
        allotter.request(&request(iaid, 1), now().boot_ms).expect("granted");
    }
}

/// Commits what the allotter has queued, or takes it back.
fn commit(store: &mut Store, allotter: &mut Allotter) -> Result<(), StoreError> {
    let changes = allotter.take_changes();
    let result = store.commit(&changes, allotter.next(), &now());
    if result.is_err() {
        allotter.undo(changes);
    }
    result
}

/// The leases as a store gives them back.
fn leases(allotter: &Allotter) -> Vec<Lease> {
    allotter.occupied().map(|lease| Lease { expires: lease.reserved, ..lease.clone() }).collect()
}

fn open(path: &Path) -> Result<(Store, Restored), StoreError> {
    Store::open(path, block(), &now())
}

fn open_disk(disk: &Disk) -> Result<(Store, Restored), StoreError> {
    let disk = disk.clone();
    Store::on_storage(Path::new("disk"), move || disk.clone(), block(), &now())
}

/// An empty store on a disk.
fn new_disk() -> Disk {
    let disk = Disk::default();
    assert!(open_disk(&disk).expect("a store").1.created);
    disk
}

/// A folder for a store, and the store's path.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state/leases.redb");
    (folder, path)
}

#[test]
fn a_store_that_somebody_has_made_meanwhile_is_left_as_it_is() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("leases.redb");
    assert!(create(&path, block(), &now()).expect("made"));
    let before = std::fs::read(&path).expect("a store");
    assert!(!create(&path, block(), &moment("later", 9, 9)).expect("there is one"));
    assert!(std::fs::read(&path).expect("a store") == before);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
}

#[test]
fn a_new_store_is_private_and_empty() {
    let (_folder, path) = folder();
    let (store, restored) = open(&path).expect("opened");
    assert_eq!(restored, Restored { leases: vec![], next: None, created: true, written: now() });
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o7777;
    let parent = path.parent().expect("a parent");
    assert_eq!((mode(&path), mode(parent)), (0o600, 0o700));
    let files: Vec<_> = parent.read_dir().expect("read").map(|entry| entry.expect("entry").path()).collect();
    assert_eq!(files, [store.path()]);
    drop(store);
    assert!(!open(&path).expect("opened").1.created);
}

#[test]
fn a_restart_keeps_everything() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path).expect("opened");
    let mut allotter = allotter();
    grant(&mut allotter, 0..100);
    commit(&mut store, &mut allotter).expect("committed");
    (0..50).for_each(|iaid| drop(allotter.release(&key(iaid), PortId(3), 2_000).expect("released")));
    commit(&mut store, &mut allotter).expect("committed");
    allotter.expire(102_000);
    commit(&mut store, &mut allotter).expect("committed");
    drop(store);
    let (_store, restored) = open(&path).expect("opened");
    assert_eq!(restored.leases.len(), 50);
    let expected = Restored { leases: leases(&allotter), next: Some(allotter.next()), created: false, written: now() };
    assert_eq!(restored, expected);
}

#[test]
fn leases_are_read_again_as_they_were_committed() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path).expect("a new store");
    let mut allotter = allotter();
    grant(&mut allotter, 0..3);
    commit(&mut store, &mut allotter).expect("committed");
    assert_eq!(store.leases().expect("read"), leases(&allotter));
    grant(&mut allotter, 3..4);
    assert_eq!(store.leases().expect("read").len(), 3, "what is not committed is not there");
    commit(&mut store, &mut allotter).expect("it can be written still");
    assert_eq!(store.leases().expect("read"), leases(&allotter));
}

#[test]
fn a_store_of_another_block_is_refused() {
    let (_folder, path) = folder();
    drop(open(&path).expect("opened"));
    for other in [
        Block::new(Mac::from_u64(0xa2f2_0000_0000), 16, 4096),
        Block::new(Mac::from_u64(0xa2f1_0000_0000), 17, 4096),
        Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, 8192),
    ] {
        let error = Store::open(&path, other.expect("a good block"), &now()).expect_err("refused");
        assert!(matches!(error, StoreError::OtherBlock { .. }), "{error}");
        assert!(error.to_string().contains("a2:f1:00:00:00:00/16 of 4096 slots"), "{error}");
    }
    open(&path).expect("as it was");
}

#[test]
fn a_store_in_use_is_locked() {
    let (_folder, path) = folder();
    let first = open(&path).expect("opened");
    assert!(matches!(open(&path), Err(StoreError::Locked { .. })));
    drop(first);
    open(&path).expect("opened");
}

#[test]
fn a_path_that_can_not_be_written_is_an_io_error() {
    let (_folder, path) = folder();
    std::fs::write(path.parent().expect("a parent"), "a file, no folder").expect("written");
    assert!(matches!(open(&path), Err(StoreError::Io { .. })));
}

#[test]
fn after_a_boot_the_remaining_times_are_on_the_new_clock() {
    let (_folder, path) = folder();
    let (mut store, _) = open(&path).expect("opened");
    let mut allotter = Allotter::new(block(), Policy { max_lifetime: u32::MAX, ..allotter().policy().clone() }, 0);
    grant(&mut allotter, 0..2);
    allotter.request(&Request { lifetime: Some(u32::MAX), ..request(2, 1) }, 1_000).expect("granted");
    allotter.request(&request(3, 1), 1_000).expect("granted");
    allotter.release(&key(1), PortId(3), 1_000).expect("released");
    allotter.close(SlotIndex(3), 1_000).expect("closed");
    commit(&mut store, &mut allotter).expect("committed");
    drop(store);
    // An hour, and 24 in reserve, from 1 s on. Twice: what was translated must be on the disk with its clock. Before the
    // second boot, 20 s are known to have passed; how long the machine was off, nobody knows.
    for (boot, passed) in [(moment("second", 50, 0), 1_000), (moment("third", 20_050, u64::MAX), 1_050)] {
        let (mut store, restored) = Store::open(&path, block(), &boot).expect("opened");
        let ends: Vec<_> = restored.leases.iter().map(|lease| (lease.expires, lease.state)).collect();
        let (end, until) = (25 * 3_600_000 + 1_000 - passed, 101_000 - passed);
        let expected = [
            (end, LeaseState::Active),
            (end, LeaseState::Quarantined { until }),
            (u64::MAX, LeaseState::Active),
            (end, LeaseState::Closed { until }),
        ];
        assert_eq!(ends, expected);
        assert_eq!(restored.next, Some(4));
        store.commit(&[], 4, &boot).expect("committed");
    }
}

#[test]
fn a_failed_commit_changes_nothing_and_the_next_one_succeeds() {
    let mut failures = 0;
    for good_for in 0.. {
        let disk = new_disk();
        let (mut store, _) = open_disk(&disk).expect("opened");
        let mut allotter = allotter();
        grant(&mut allotter, 0..40);
        commit(&mut store, &mut allotter).expect("committed");
        disk.fail_after(good_for);
        grant(&mut allotter, 40..80);
        allotter.release(&key(0), PortId(3), 1_000).expect("released");
        let failed = commit(&mut store, &mut allotter);
        assert!(matches!(failed, Ok(()) | Err(StoreError::Full { .. })), "{failed:?}");
        let again = commit(&mut store, &mut allotter).is_err();
        disk.heal();
        grant(&mut allotter, 80..90);
        commit(&mut store, &mut allotter).expect("committed after the disk is good again");
        drop(store);
        let restored = open_disk(&disk).expect("opened").1;
        assert_eq!((restored.leases, restored.next), (leases(&allotter), Some(allotter.next())), "{good_for}");
        if failed.is_ok() && !again {
            break;
        }
        failures += 1;
    }
    assert!(failures > 3, "only {failures} places to fail at");
}

#[test]
fn a_full_file_system_is_reported_and_survived() {
    // A mount namespace belongs to a thread: this one ends with the test, and its file system with it.
    let test = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root, for a mount namespace");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).expect("private mounts");
        let (folder, path) = folder();
        mount(none, folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=8m")).expect("a tmpfs");
        let (mut store, _) = open(&path).expect("opened");
        let mut allotter = allotter();
        grant(&mut allotter, 0..10);
        commit(&mut store, &mut allotter).expect("committed");
        let ballast = folder.path().join("ballast");
        let full = std::fs::write(&ballast, vec![1; 16 << 20]).expect_err("too much");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let refused = (1u32..1_000).find_map(|n| {
            grant(&mut allotter, n * 100..n * 100 + 4);
            commit(&mut store, &mut allotter).err()
        });
        assert!(matches!(refused, Some(StoreError::Full { .. })), "{refused:?}");
        std::fs::remove_file(&ballast).expect("removed");
        grant(&mut allotter, 200_000..200_100);
        commit(&mut store, &mut allotter).expect("there is space again");
        drop(store);
        assert_eq!(open(&path).expect("opened").1.leases, leases(&allotter));
    };
    std::thread::spawn(test).join().expect("the test passes");
}

#[test]
fn kill_9_loses_no_acknowledged_lease() {
    const CHILD: &str = "FLOWLANE_STORE_TEST_CHILD";
    if let Some(path) = std::env::var_os(CHILD) {
        let (mut store, mut allotter) = (open(Path::new(&path)).expect("opened").0, allotter());
        for iaid in 0.. {
            grant(&mut allotter, iaid..iaid + 1);
            commit(&mut store, &mut allotter).expect("committed");
            eprintln!("acknowledged {iaid}");
        }
    }
    for acknowledged in [1, 7, 20] {
        let (_folder, path) = folder();
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::tests::kill_9_loses_no_acknowledged_lease", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let count = lines.filter(|line| line.starts_with("acknowledged")).take(acknowledged).count();
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert_eq!(count, acknowledged);
        let restored = open(&path).expect("opened").1;
        assert!(restored.leases.len() >= acknowledged, "{} of {acknowledged}", restored.leases.len());
        let next = restored.leases.last().expect("a lease").first + 1;
        assert_eq!(restored.next, Some(next));
    }
}

/// A closed store with leases, and the leases.
fn closed_store() -> (Disk, Vec<Lease>) {
    let disk = new_disk();
    let (mut store, _) = open_disk(&disk).expect("opened");
    let mut allotter = allotter();
    grant(&mut allotter, 0..60);
    commit(&mut store, &mut allotter).expect("committed");
    allotter.release(&key(7), PortId(3), 1_000).expect("released");
    commit(&mut store, &mut allotter).expect("committed");
    (disk, leases(&allotter))
}

/// Offsets to damage: all of the header, and every 13th octet of the pages that hold anything.
fn places(image: &[u8]) -> Vec<usize> {
    let used = image.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|&octet| octet != 0));
    let mut places: Vec<_> = used.flat_map(|(page, _)| (page * 4096..(page + 1) * 4096).step_by(13)).collect();
    places.extend((0..320).filter(|offset| offset % 13 != 0));
    places
}

fn flip(image: &[u8], place: usize) -> Disk {
    let mut image = image.to_vec();
    image[place] ^= 1 << (place % 8);
    Disk::with(image)
}

#[test]
fn a_flipped_bit_gives_the_same_leases_or_an_error() {
    let (disk, leases) = closed_store();
    let image = disk.image();
    let (mut same, mut refused) = (0, 0);
    for place in places(&image) {
        match open_disk(&flip(&image, place)) {
            Ok((_, restored)) => {
                assert_eq!(restored.leases, leases, "octet {place}");
                same += 1;
            }
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("octet {place}: {other}"),
        }
    }
    assert!(same > 0 && refused > 100, "{same} the same, {refused} refused");
}

#[test]
fn a_flipped_bit_after_a_crash_gives_a_committed_state_or_an_error() {
    let disk = new_disk();
    let (mut store, _) = open_disk(&disk).expect("opened");
    let mut allotter = allotter();
    let states = [0..30, 30..60].map(|iaids| {
        grant(&mut allotter, iaids);
        commit(&mut store, &mut allotter).expect("committed");
        leases(&allotter)
    });
    let image = disk.image();
    for place in places(&image) {
        match open_disk(&flip(&image, place)) {
            Ok((_, restored)) => assert!(states.contains(&restored.leases), "octet {place}"),
            Err(StoreError::Corrupt { .. }) => (),
            Err(other) => panic!("octet {place}: {other}"),
        }
    }
}

#[test]
fn a_shortened_file_is_damaged() {
    let (_folder, path) = folder();
    drop(open(&path).expect("opened"));
    let whole = std::fs::read(&path).expect("read");
    for length in (0..whole.len()).step_by(whole.len() / 50) {
        std::fs::write(&path, &whole[..length]).expect("written");
        let error = open(&path).expect_err("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{length}: {error}");
        assert!(error.to_string().contains("leases.redb") && error.to_string().contains("move it aside"), "{error}");
    }
}

#[test]
fn a_file_of_something_else_is_damaged_and_left_alone() {
    let (_folder, path) = folder();
    std::fs::create_dir(path.parent().expect("a parent")).expect("created");
    for content in [b"leases: none\n".to_vec(), vec![0xa5; 100_000], vec![0; 4096]] {
        std::fs::write(&path, &content).expect("written");
        let error = open(&path).expect_err("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), content);
    }
}

/// What is in the store as rows that nobody damaged, yet which contradict each other.
#[test]
fn rows_that_contradict_each_other_are_damage() {
    let lease = closed_store().1.remove(0);
    let slot = block().slot_of(lease.first).0;
    let meta = |rows| Meta { block: identity(block()), next: Some(1), rows, written: now() };
    let outcome = |slot: u32, lease: Vec<u8>, meta: &Meta| {
        let disk = new_disk();
        let db = builder().create_with_backend(disk.clone()).expect("a database");
        let transaction = db.begin_write().expect("a transaction");
        transaction.open_table(LEASES).expect("a table").insert(slot, lease.as_slice()).expect("inserted");
        let meta = row::encode(META_KEY, meta).expect("a row");
        transaction.open_table(META).expect("a table").insert(META_KEY, meta.as_slice()).expect("inserted");
        transaction.commit().expect("committed");
        drop(db);
        open_disk(&disk).map(|(_, restored)| restored.leases)
    };
    let row = |slot| row::encode(slot, &lease).expect("a row");
    assert_eq!(outcome(slot, row(slot), &meta(1)).expect("opened"), std::slice::from_ref(&lease));
    for damaged in [
        outcome(slot, row(slot), &meta(2)),
        outcome(slot + 1, row(slot + 1), &meta(1)),
        outcome(slot, row(slot + 1), &meta(1)),
        outcome(slot, vec![], &meta(1)),
    ] {
        assert!(matches!(damaged, Err(StoreError::Corrupt { .. })), "{damaged:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn power_loss_at_any_write_keeps_what_was_acknowledged(
        cut in 0u32..160,
        seed: u64,
        batches in prop::collection::vec((1u32..8, 0u32..60), 1..8),
    ) {
        let disk = new_disk();
        let (mut store, _) = open_disk(&disk).expect("opened");
        let mut allotter = allotter();
        disk.fail_after(cut);
        let mut acknowledged = vec![(vec![], None)];
        for (iaid, (count, released)) in (0..).map(|n| n * 10).zip(batches) {
            grant(&mut allotter, iaid..iaid + count);
            // A lease that is not there is not released: as good.
            let _ = allotter.release(&key(released), PortId(3), 1_000);
            acknowledged.push((leases(&allotter), Some(allotter.next())));
            let changes = allotter.take_changes();
            if store.commit(&changes, allotter.next(), &now()).is_err() {
                break;
            }
            acknowledged.remove(0);
        }
        // The last state acknowledged, and the one that was being written, if any.
        let left = disk.after_power_cut(&mut Rng::with_seed(seed));
        drop(store);
        let (_store, restored) = open_disk(&left).expect("opened");
        prop_assert!(acknowledged.contains(&(restored.leases, restored.next)));
    }
}
