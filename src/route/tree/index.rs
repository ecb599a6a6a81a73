//! Which element of a list has a key: a hash table of places in the list.
//!
//! Made once for all keys, so it can see how little of them a hash needs: most tables tell their
//! keys apart by the last sixteen bytes.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// Half of the slots or more are free, so a search ends soon. The keys themselves lie in the list.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// As many as a power of two, or none.
    slots: Vec<Slot>,
    /// How many bytes at the end of a text are hashed.
    tail: usize,
}

/// Text, and the node that it follows if that matters.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) from: u32,
    pub(super) text: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The half of the hash that does not choose the slot.
    tag: u32,
    /// [`FREE`], or a place in the list.
    at: u32,
}

const FREE: u32 = u32::MAX;
/// How many bytes of a key to hash: the first of these that gives no two keys one hash.
const TAILS: [usize; 4] = [16, 32, 64, usize::MAX];

impl Index {
    /// From different keys and their places.
    pub(super) fn new(keys: &[(Key<'_>, u32)]) -> Self {
        let size = if keys.is_empty() { 0 } else { (2 * keys.len()).next_power_of_two() };
        let mut index = Self { slots: vec![Slot { tag: 0, at: FREE }; size], tail: usize::MAX };
        index.tail = TAILS.into_iter().find(|tail| tells_apart(keys, *tail)).unwrap_or(usize::MAX);
        for (key, at) in keys {
            let hash = key.hash(index.tail);
            let mut slot = hash as usize & (size - 1);
            while index.slots[slot].at != FREE {
                slot = (slot + 1) & (size - 1);
            }
            index.slots[slot] = Slot { tag: tag(hash), at: *at };
        }
        index
    }

    /// The element of the list with this key, for which `same` holds.
    #[inline(always)]
    pub(super) fn find<'a, T>(&self, list: &'a [T], key: Key<'_>, same: impl Fn(&T) -> bool) -> Option<&'a T> {
        let hash = key.hash(self.tail);
        let mut slot = hash as usize;
        let first = self.candidate(list, hash, &mut slot)?;
        if same(first) { Some(first) } else { self.find_other(list, hash, slot, same) }
    }

    // Apart, so that what it needs takes no registers from the common case.
    #[cold]
    #[inline(never)]
    fn find_other<'a, T>(&self, list: &'a [T], hash: u64, mut slot: usize, same: impl Fn(&T) -> bool) -> Option<&'a T> {
        loop {
            let candidate = self.candidate(list, hash, &mut slot)?;
            if same(candidate) {
                return Some(candidate);
            }
        }
    }

    /// The next element with this hash, from a slot on; the slot moves past it.
    #[inline(always)]
    fn candidate<'a, T>(&self, list: &'a [T], hash: u64, slot: &mut usize) -> Option<&'a T> {
        let mask = self.slots.len().wrapping_sub(1);
        loop {
            let Slot { tag: found, at } = *self.slots.get(*slot & mask)?;
            *slot = slot.wrapping_add(1);
            if found == tag(hash) || at == FREE {
                return list.get(at as usize);
            }
        }
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn tells_apart(keys: &[(Key<'_>, u32)], tail: usize) -> bool {
    let mut hashes: Vec<u64> = keys.iter().map(|(key, _)| key.hash(tail)).collect();
    hashes.sort_unstable();
    hashes.windows(2).all(|pair| pair[0] != pair[1])
}

impl Key<'_> {
    // The keys are the operator's own, so a client cannot choose colliding ones to insert; a fast
    // hash is enough.
    #[inline(always)]
    fn hash(self, tail: usize) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u32(self.from);
        hasher.write(&self.text[self.text.len().saturating_sub(tail)..]);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_whatever_part_of_them_differs() {
        for length in [0, 1, 7, 8, 9, 16, 17, 40, 80] {
            let same = "x".repeat(length);
            let texts: Vec<String> = (0..100).flat_map(|n| [format!("/{n}{same}"), format!("/{same}{n}/")]).collect();
            let keys: Vec<_> = texts.iter().map(|text| Key { from: 1, text: text.as_bytes() }).zip(0..).collect();
            let index = Index::new(&keys);
            let find = |text: &str| {
                index.find(&texts, Key { from: 1, text: text.as_bytes() }, |known| known == text).map(String::as_str)
            };
            assert!(texts.iter().all(|text| find(text) == Some(text)), "{length}");
            assert_eq!(find(&format!("/100{same}")), None);
            assert_eq!(find(""), None);
        }
    }
}
