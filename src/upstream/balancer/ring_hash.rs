//! Consistent hashing on a ring: ketama as nginx's `hash … consistent` does it.
//!
//! Every unit of weight puts 160 points on a ring of 32-bit numbers; a key belongs to the first
//! point at or after its own CRC-32. The points of a server are a chain of CRC-32s over its host,
//! a NUL, its port and the point before (0 at first), the latter as four bytes, low one first. It
//! is what nginx took over from Cache::Memcached::Fast, so that a move from nginx moves no key, if
//! nginx names its servers by the same address and port.
//!
//! The search for a point begins at an index over the leading bits, which the points, being
//! hashes, share out evenly: a pick touches two places of memory however long the ring.

use crc32fast::Hasher;

use super::affinity::Affinity;
use super::{Members, Seat, below, weighted};

/// Points of one unit of weight.
const POINTS: u64 = 160;
/// A ring has at most about this many points; larger weights are scaled down together, and then
/// no longer as in nginx.
const MAX_POINTS: u64 = 1 << 22;
/// Points that are tried before all seats are, in their order.
const WALK: usize = 1_024;

/// Members on a ring.
#[derive(Debug)]
pub struct RingHash {
    /// By hash, ascending, no two alike.
    points: Box<[Point]>,
    /// Where the points of each combination of leading bits begin, and the end.
    starts: Box<[u32]>,
    /// By how much to shift a hash for its leading bits.
    shift: u32,
    affinity: Affinity,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    hash: u32,
    seat: u32,
}

impl RingHash {
    /// Lays out the ring; `bound` limits what a member holds, see [`Kind`](super::Kind).
    #[must_use]
    pub fn new(seats: &[Seat<'_>], bound: Option<f64>) -> Self {
        let points = points(seats);
        // About two points to a start.
        let bits = (points.len() / 2).checked_ilog2().unwrap_or(0);
        let shift = u32::BITS - bits;
        let starts = (0..=1_u64 << bits)
            .map(|lead| points.partition_point(|point| u64::from(point.hash) < lead << shift) as u32)
            .collect();
        Self { points, starts, shift, affinity: Affinity::new(seats, bound) }
    }

    /// The member that the key belongs to, or the next on the ring that can take it.
    pub fn pick(&self, members: &impl Members, key: &[u8], random: &mut impl FnMut() -> u64) -> Option<u32> {
        // An empty key names nobody: nginx, too, spreads it over all.
        let hash = if key.is_empty() { random() as u32 } else { crc32fast::hash(key) };
        let (before, after) = self.points.split_at_checked(self.after(hash))?;
        let walk = after.iter().chain(before).take(WALK).map(|point| point.seat);
        let start = below(u64::from(hash) << 32, self.affinity.len());
        self.affinity.first(members, walk.chain(self.affinity.all_from(start)))
    }

    /// The index of the first point at or after `hash`; the number of points if there is none.
    fn after(&self, hash: u32) -> usize {
        let lead = hash.checked_shr(self.shift).unwrap_or(0) as usize;
        let (start, end) = (self.starts[lead] as usize, self.starts[lead + 1] as usize);
        start + self.points[start..end].partition_point(|point| point.hash < hash)
    }
}

/// The points of all seats that have a weight. Of equal ones the first seat's stays.
fn points(seats: &[Seat<'_>]) -> Box<[Point]> {
    let total = weighted(seats).map(|seat| u64::from(seat.weight)).sum::<u64>() * POINTS;
    let mut points = Vec::new();
    for (index, seat) in (0..).zip(weighted(seats)) {
        let mut count = u64::from(seat.weight) * POINTS;
        if total > MAX_POINTS {
            count = (count as f64 * MAX_POINTS as f64 / total as f64).ceil() as u64;
        }
        let base = base(seat.name);
        let mut hash = 0;
        for _ in 0..count {
            let mut hasher = base.clone();
            hasher.update(&u32::to_le_bytes(hash));
            hash = hasher.finalize();
            points.push(Point { hash, seat: index });
        }
    }
    points.sort_unstable_by_key(|point| u64::from(point.hash) << 32 | u64::from(point.seat));
    points.dedup_by_key(|point| point.hash);
    points.into()
}

/// The hash that all points of a server begin with: host, NUL, and port if there is one.
fn base(name: &str) -> Hasher {
    let numeric = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = name.rsplit_once(':').filter(|(_, port)| numeric(port)).unwrap_or((name, ""));
    let mut hasher = Hasher::new();
    hasher.update(host.as_bytes());
    hasher.update(&[0]);
    hasher.update(port.as_bytes());
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balancer::testing::{Field, assert_share, counts, named, seats_of};

    /// Keys and the ports that nginx 1.22.1 sent them to, with `hash $arg_k consistent` and
    /// servers 127.0.0.1:18181 to 18184 of weights 1, 2, 1 and 3.
    const NGINX: &str = include_str!("ring_hash_nginx.tsv");

    fn ring(names: &[String], weights: &[u32], bound: Option<f64>) -> RingHash {
        RingHash::new(&seats_of(names, weights), bound)
    }

    fn pick(ring: &RingHash, members: &Field, key: &str) -> Option<u32> {
        ring.pick(members, key.as_bytes(), &mut || 0)
    }

    fn nginx_ring() -> RingHash {
        ring(&(18_181..=18_184).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>(), &[1, 2, 1, 3], None)
    }

    #[test]
    fn keys_go_where_nginx_sends_them() {
        let ring = nginx_ring();
        let members = Field::idle(4);
        for line in NGINX.lines() {
            let (key, port) = line.split_once('\t').unwrap();
            assert_eq!(pick(&ring, &members, key), Some(port.parse::<u32>().unwrap() - 18_181), "{key}");
        }
        assert_eq!(NGINX.lines().count(), 200);
    }

    #[test]
    fn points_are_those_of_an_independent_implementation() {
        // By zlib's crc32 in Python.
        let points = nginx_ring().points;
        assert_eq!(points.len(), 1_120);
        let found: Vec<_> = points[..3].iter().chain(&points[1_118..]).map(|point| (point.hash, point.seat)).collect();
        assert_eq!(found, [(483_233, 0), (5_264_410, 3), (8_585_778, 3), (4_290_911_309, 1), (4_292_382_506, 3)],);
        assert!(points.is_sorted_by(|a, b| a.hash < b.hash));
    }

    #[test]
    fn the_index_finds_what_a_search_over_all_would() {
        let mut random = fastrand::Rng::with_seed(12);
        for size in [0, 1, 2, 3, 50] {
            let ring = ring(&named(size), &vec![1; size], None);
            let edges = ring.points.iter().flat_map(|point| [point.hash, point.hash.wrapping_add(1)]);
            let hashes = edges.chain([0, u32::MAX]).chain((0..1_000).map(|_| random.u32(..)));
            for hash in hashes.collect::<Vec<_>>() {
                assert_eq!(ring.after(hash), ring.points.partition_point(|point| point.hash < hash));
            }
        }
    }

    #[test]
    fn a_key_goes_to_the_next_on_the_ring_and_returns() {
        let ring = nginx_ring();
        for key in (0..500).map(|key| format!("key{key}")) {
            let home = pick(&ring, &Field::idle(4), &key).unwrap();
            let others: Vec<u32> = (0..4).filter(|member| *member != home).collect();
            let away = pick(&ring, &Field::only(&others, 4), &key).unwrap();
            let next = ring.after(crc32fast::hash(key.as_bytes()));
            let mut walk = ring.points.iter().cycle().skip(next).map(|point| point.seat);
            assert_eq!(walk.find(|seat| *seat != home), Some(away));
            assert_eq!(pick(&ring, &Field::idle(4), &key), Some(home));
        }
    }

    #[test]
    fn an_overloaded_member_gives_its_keys_away() {
        let ring = ring(&named(4), &[1; 4], Some(1.25));
        let mut members = Field::idle(4);
        let home = pick(&ring, &members, "key").unwrap();
        for member in 0..4 {
            members[member].in_flight = 10;
        }
        assert_eq!(pick(&ring, &members, "key"), Some(home));
        members[home as usize].in_flight = 20;
        assert!(pick(&ring, &members, "key").is_some_and(|member| member != home));
    }

    #[test]
    fn empty_keys_are_spread_over_all() {
        let ring = nginx_ring();
        let mut random = fastrand::Rng::with_seed(13);
        let all = counts(4, 4_000, || ring.pick(&Field::idle(4), b"", &mut || random.u64(..)));
        assert!(all.iter().all(|count| *count > 300), "{all:?}");
    }

    #[test]
    fn huge_weights_make_no_huge_ring() {
        let ring = ring(&named(3), &[u32::MAX, u32::MAX / 2, 1], None);
        assert!(ring.points.len() as u64 <= MAX_POINTS + 3);
        let trials = 50_000;
        let mut keys = 0_u64..;
        let all = counts(3, trials, || ring.pick(&Field::idle(3), &keys.next()?.to_le_bytes(), &mut || 0));
        assert_share(all[0], trials, 2.0 / 3.0);
    }

    #[test]
    fn names_are_hashed_as_host_and_port() {
        let cases: [(&str, &[u8]); 4] = [
            ("10.0.0.1:80", b"10.0.0.1\x0080"),
            ("[::1]:8080", b"[::1]\x008080"),
            ("10.0.0.1", b"10.0.0.1\0"),
            ("[fe80::a]", b"[fe80::a]\0"),
        ];
        for (name, bytes) in cases {
            assert_eq!(base(name).finalize(), crc32fast::hash(bytes), "{name}");
        }
    }
}
