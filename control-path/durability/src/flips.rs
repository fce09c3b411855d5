//! Octets of a store's file that change by themselves.

use crate::disk::Disk;
use crate::history::{History, open};
use crate::row::Row;
use flowlane_allot::Lease;
use flowlane_store::{Moment, StoreError};

/// Turns before the file is damaged: about as many leases as there are slots.
const TURNS: u32 = 40;

/// Flips a bit of one octet after the other, each `stride`-th one from a random one on, of a store that was closed and of
/// one whose process was killed. A store either opens with every lease as it was, or names its file and says what to do.
pub fn flipped_bytes(stride: usize, seed: u64, progress: impl Fn(u64)) -> Row {
    let mut history = History::new("flipped-bytes", seed);
    (0..TURNS).for_each(|_| history.turn());
    let (leases, now) = (history.leases(), history.clock.moment());
    let (killed, closed) = (history.kill().image(), history.stop().image());
    let mut row = Row::new("flipped-bytes");
    for mut image in [killed, closed] {
        let start = history.random.usize(..stride);
        for place in (start..image.len()).step_by(stride) {
            let bit = 1 << history.random.u8(..8);
            image[place] ^= bit;
            judge(&image, place, &leases, &now, &mut row);
            image[place] ^= bit;
            row.count("flips", 1);
            progress(row.counts.get("flips").copied().unwrap_or(0));
        }
    }
    row.demand("intact");
    row.demand("refused");
    row
}

fn judge(image: &[u8], place: usize, leases: &[Lease], now: &Moment, row: &mut Row) {
    match open(&Disk::with(image.to_vec()), now) {
        Ok((_, restored)) if restored.leases == leases => row.count("intact", 1),
        Ok((_, restored)) => {
            let lost = leases.iter().filter(|lease| !restored.leases.contains(lease)).count();
            row.leases_lost += lost.max(1) as u64;
            row.wrong(|| format!("octet {place}: other leases are served than were acknowledged"));
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            row.count("refused", 1);
            let text = error.to_string();
            if !text.contains(crate::history::NAME) || !text.contains("move it aside") {
                row.wrong(|| format!("octet {place}: {text}"));
            }
        }
        Err(error) => row.wrong(|| format!("octet {place}: the file is called otherwise than damaged: {error}")),
    }
}
