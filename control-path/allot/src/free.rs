//! Which slots are free, and where a run of them is.

/// The free slots of a table, as a bitmap under a tree of run lengths.
///
/// Each node of the tree knows the longest run of free slots below it, so that both finding a run and knowing that
/// there is none cost a walk of the tree's height: 14 steps for a million slots, full or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreeSlots {
    /// One bit per slot, set where the slot is free; the lowest bit is the lowest slot.
    words: Vec<u64>,
    /// The tree in heap order: the root is 1, the children of `n` are `2n` and `2n + 1`, the last half are `words`.
    runs: Vec<Runs>,
}

/// The runs of free slots below one node of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Runs {
    /// Length of the run that starts with the first slot.
    head: u32,
    /// Length of the run that ends with the last slot.
    tail: u32,
    /// Length of the longest run.
    longest: u32,
}

/// A look for `count` free slots in a row, none of them below `from`.
struct Search {
    from: u32,
    count: u32,
    /// Length of the run that ends where the search stands.
    carry: u32,
}

const WORD: u32 = u64::BITS;

impl FreeSlots {
    /// A table of `slots` free slots; a power of two, as [`flowlane_wire::Block::slots`] is.
    pub(crate) fn new(slots: u32) -> Self {
        debug_assert!(slots.is_power_of_two());
        let words = match slots {
            0..WORD => vec![(1 << slots) - 1],
            _ => vec![u64::MAX; (slots / WORD) as usize],
        };
        let mut free = Self { runs: vec![Runs::default(); 2 * words.len()], words };
        (0..free.words.len()).for_each(|word| free.measure_word(word));
        (1..free.words.len()).rev().for_each(|node| free.measure_node(node));
        free
    }

    /// The length of the longest run of free slots; 0 where all slots are taken.
    pub(crate) fn longest(&self) -> u32 {
        self.runs[1].longest
    }

    /// The first slot, `from` or above, of a run of `count` free slots.
    pub(crate) fn find(&self, from: u32, count: u32) -> Option<u32> {
        self.search(1, 0, self.words.len() as u32 * WORD, &mut Search { from, count, carry: 0 })
    }

    /// Whether all of `count` slots, from `first` on, are free.
    pub(crate) fn are_free(&self, first: u32, count: u32) -> bool {
        words_of(first, count).all(|(word, mask)| self.words[word] & mask == mask)
    }

    /// Frees `count` slots from `first` on.
    pub(crate) fn give(&mut self, first: u32, count: u32) {
        debug_assert!(words_of(first, count).all(|(word, mask)| self.words[word] & mask == 0));
        self.change(first, count, |word, mask| *word |= mask);
    }

    /// Takes `count` slots from `first` on.
    pub(crate) fn take(&mut self, first: u32, count: u32) {
        debug_assert!(self.are_free(first, count));
        self.change(first, count, |word, mask| *word &= !mask);
    }

    fn change(&mut self, first: u32, count: u32, apply: impl Fn(&mut u64, u64)) {
        for (word, mask) in words_of(first, count) {
            apply(&mut self.words[word], mask);
            self.measure_word(word);
            let mut node = (self.words.len() + word) / 2;
            while node > 0 {
                self.measure_node(node);
                node /= 2;
            }
        }
    }

    fn measure_word(&mut self, word: usize) {
        let bits = self.words[word];
        let runs = Runs { head: bits.trailing_ones(), tail: bits.leading_ones(), longest: longest_run(bits) };
        let leaf = self.words.len() + word;
        self.runs[leaf] = runs;
    }

    fn measure_node(&mut self, node: usize) {
        let (left, right) = (self.runs[2 * node], self.runs[2 * node + 1]);
        let half = self.width(node) / 2;
        self.runs[node] = Runs {
            head: if left.head == half { half + right.head } else { left.head },
            tail: if right.tail == half { half + left.tail } else { right.tail },
            longest: left.longest.max(right.longest).max(left.tail + right.head),
        };
    }

    /// How many slots stand below a node.
    fn width(&self, node: usize) -> u32 {
        (self.words.len() as u32 * WORD) >> node.ilog2()
    }

    /// Looks below `node`, whose first slot is `low`.
    fn search(&self, node: usize, low: u32, width: u32, search: &mut Search) -> Option<u32> {
        if low + width <= search.from {
            return None;
        }
        if node >= self.words.len() {
            return search.word(low, self.words[node - self.words.len()]);
        }
        let runs = self.runs[node];
        if low >= search.from && search.carry + runs.head < search.count && runs.longest < search.count {
            search.carry = if runs.tail == width { search.carry + width } else { runs.tail };
            return None;
        }
        let half = width / 2;
        self.search(2 * node, low, half, search).or_else(|| self.search(2 * node + 1, low + half, half, search))
    }
}

impl Search {
    /// Looks in one word of the bitmap, whose first slot is `low`.
    fn word(&mut self, low: u32, bits: u64) -> Option<u32> {
        let bits = bits & (u64::MAX << self.from.saturating_sub(low));
        if self.carry + bits.trailing_ones() >= self.count {
            return Some(low - self.carry);
        }
        let starts = if self.count <= WORD { (1..self.count).fold(bits, |bits, _| bits & (bits >> 1)) } else { 0 };
        if starts != 0 {
            return Some(low + starts.trailing_zeros());
        }
        self.carry = if bits == u64::MAX { self.carry + WORD } else { bits.leading_ones() };
        None
    }
}

fn longest_run(mut bits: u64) -> u32 {
    let mut length = 0;
    while bits != 0 {
        bits &= bits << 1;
        length += 1;
    }
    length
}

/// The words that hold the bits of `count` slots from `first` on, each with the mask of those bits.
fn words_of(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    (first / WORD..end.div_ceil(WORD)).map(move |word| {
        let low = first.max(word * WORD) % WORD;
        let length = end.min((word + 1) * WORD) - first.max(word * WORD);
        (word as usize, (u64::MAX >> (WORD - length)) << low)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow_find(table: &[bool], from: u32, count: u32) -> Option<u32> {
        let slots = table.len() as u32;
        (from..slots).find(|&s| s + count <= slots && (s..s + count).all(|i| table[i as usize]))
    }

    fn slow_longest(table: &[bool]) -> u32 {
        table.split(|free| !free).map(|run| run.len() as u32).max().unwrap_or(0)
    }

    #[test]
    fn a_run_is_found_across_words_by_what_is_free_on_both_sides() {
        let mut free = FreeSlots::new(256);
        free.take(0, 123);
        free.take(129, 127);
        assert_eq!([5, 6, 7].map(|count| free.find(0, count)), [Some(123), Some(123), None]);
    }

    proptest! {
        #[test]
        fn a_run_is_found_exactly_where_a_scan_finds_it(
            bits in 0u32..11,
            steps in prop::collection::vec((any::<u32>(), 1u32..200, any::<u32>(), 1u32..200), 1..120),
        ) {
            let slots = 1u32 << bits;
            let (mut free, mut table) = (FreeSlots::new(slots), vec![true; slots as usize]);
            for (at, length, from, count) in steps {
                let first = at % slots;
                let length = length.min(slots - first);
                let range = first as usize..(first + length) as usize;
                prop_assert_eq!(free.are_free(first, length), table[range.clone()].iter().all(|&f| f));
                if table[range.clone()].iter().all(|&f| f) {
                    free.take(first, length);
                    table[range].fill(false);
                } else if table[range.clone()].iter().all(|&f| !f) {
                    free.give(first, length);
                    table[range].fill(true);
                }
                prop_assert_eq!(free.find(from % slots, count), slow_find(&table, from % slots, count));
                prop_assert_eq!(free.longest(), slow_longest(&table));
            }
        }
    }
}
