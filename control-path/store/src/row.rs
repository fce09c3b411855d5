//! The octets of a row: layout version, value (postcard), CRC-32 of the key and of both.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cmp::Ordering;

/// The layout that this program writes.
pub(crate) const VERSION: u8 = 4;

/// Length of the checksum behind each row, little-endian.
const CHECKSUM: usize = 4;

/// What is wrong with a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowError {
    /// The checksum is wrong, or the value is none.
    Damaged,
    /// A newer program wrote the row.
    Newer(u8),
    /// An older program wrote the row, in a layout that nobody reads any more.
    Older(u8),
}

/// The row that holds `value` under `key`.
pub(crate) fn encode(key: u32, value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    let mut row = postcard::to_extend(value, vec![VERSION])?;
    row.extend(checksum(key, &row).to_le_bytes());
    Ok(row)
}

/// The value that `row` holds under `key`.
pub(crate) fn decode<T: DeserializeOwned>(key: u32, row: &[u8]) -> Result<T, RowError> {
    let at = row.len().checked_sub(CHECKSUM).ok_or(RowError::Damaged)?;
    let (body, sum) = row.split_at(at);
    if sum != checksum(key, body).to_le_bytes() {
        return Err(RowError::Damaged);
    }
    let (&version, value) = body.split_first().filter(|(version, _)| **version != 0).ok_or(RowError::Damaged)?;
    match version.cmp(&VERSION) {
        Ordering::Greater => Err(RowError::Newer(version)),
        Ordering::Less => Err(RowError::Older(version)),
        Ordering::Equal => match postcard::take_from_bytes(value) {
            Ok((value, [])) => Ok(value),
            _ => Err(RowError::Damaged),
        },
    }
}

/// The key is part of it, so that a row that stands under another row's key is seen.
fn checksum(key: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_gives_its_value_under_its_own_key_only(key: u32, other: u32, value: (u64, String)) {
            let row = encode(key, &value).expect("a row");
            prop_assert_eq!(decode::<(u64, String)>(key, &row), Ok(value));
            if other != key {
                prop_assert_eq!(decode::<(u64, String)>(other, &row), Err(RowError::Damaged));
            }
        }

        #[test]
        fn any_octets_are_a_value_or_damaged(key: u32, row: Vec<u8>) {
            prop_assert_eq!(decode::<(u64, String)>(key, &row), Err(RowError::Damaged));
        }

        #[test]
        fn a_flipped_bit_is_seen(key: u32, value: (u64, String), at: prop::sample::Index, bit in 0u32..8) {
            let mut row = encode(key, &value).expect("a row");
            let at = at.index(row.len());
            row[at] ^= 1 << bit;
            prop_assert_eq!(decode::<(u64, String)>(key, &row), Err(RowError::Damaged));
        }
    }

    #[test]
    fn a_row_of_another_layout_is_not_called_damaged() {
        // No layout had the number 0: that is what an empty page begins with.
        let errors = [(VERSION + 1, RowError::Newer(VERSION + 1)), (1, RowError::Older(1)), (0, RowError::Damaged)];
        for (version, error) in errors {
            let mut row = vec![version, 9, 9];
            row.extend(checksum(7, &row).to_le_bytes());
            assert_eq!(decode::<u64>(7, &row), Err(error));
        }
    }
}
