//! A percentage with a stable key: the same user, tenant or session is always in, or always out, on every thread, on
//! every agent, and in every version of this crate.
//!
//! The hash is fixed, so that other programs can compute the same: FNV-1a (64 bit) over the salt's bytes, one zero
//! byte, and the key's bytes, then the finalizer of MurmurHash3 (`fmix64`), because FNV alone leaves short keys uneven.
//! A key's place is `(hash × 10,000) >> 64`, a number from 0 to 9,999; a percentage P takes the places below P × 100.
//! So a larger percentage takes all that a smaller one took, and more.
//!
//! ```
//! use mirrord_filter_sdk::percent::Percent;
//!
//! let tenth = Percent::new(10.0, "new-cart").unwrap();
//! assert_eq!(tenth.takes(b"user-1"), tenth.takes(b"user-1"));
//! ```

/// How many places there are: a percentage has two digits behind the point.
pub const PLACES: u16 = 10_000;

/// So many of a hundred keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Percent {
    below: u16,
    salt: String,
}

impl Percent {
    /// `percent` from 0 to 100, of which two digits behind the point count; nothing for what is not. The `salt` names the
    /// experiment: with another one, other keys are taken.
    pub fn new(percent: f64, salt: impl Into<String>) -> Option<Self> {
        // A NaN is in no range.
        let below = (0.0..=100.0).contains(&percent).then_some((percent * 100.0).round() as u16)?;
        Some(Percent { below, salt: salt.into() })
    }

    /// Is this key among them?
    pub fn takes(&self, key: &[u8]) -> bool {
        place(self.salt.as_bytes(), key) < self.below
    }
}

/// The key's place among [`PLACES`].
pub fn place(salt: &[u8], key: &[u8]) -> u16 {
    // Below 10,000 by construction.
    ((u128::from(stable_hash(salt, key)) * u128::from(PLACES)) >> 64) as u16
}

/// The hash of the module's head comment.
pub fn stable_hash(salt: &[u8], key: &[u8]) -> u64 {
    fmix64(fnv1a(salt.iter().chain(&[0]).chain(key)))
}

fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn fmix64(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_hash_are_the_published_ones() {
        // The FNV authors' test vectors.
        for (text, hash) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)] {
            assert_eq!(fnv1a(text.as_bytes().iter()), hash, "{text:?}");
        }
        assert_eq!(fmix64(0), 0);
        // MurmurHash3's finalizer, as its reference implementation computes it.
        assert_eq!(fmix64(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn a_key_stays_where_it_is_for_good() {
        // Computed by another program from the module's head comment. A change would move everybody's users between versions.
        assert_eq!([place(b"", b""), place(b"new-cart", b"user-1"), place(b"new-cart", b"user-2")], [7227, 5151, 7838]);
    }

    #[test]
    fn so_many_of_a_hundred_are_taken_and_more_takes_the_same_ones_too() {
        let keys: Vec<String> = (0..20_000).map(|n| format!("user-{n}")).collect();
        for percent in [0.0, 0.5, 10.0, 50.0, 99.0, 100.0] {
            let taken = |percent| {
                let percent = Percent::new(percent, "salt").unwrap();
                keys.iter().map(|key| percent.takes(key.as_bytes())).collect::<Vec<_>>()
            };
            let (these, more) = (taken(percent), taken((percent + 5.0).min(100.0)));
            let share = these.iter().filter(|&&taken| taken).count() as f64 / 200.0;
            assert!((share - percent).abs() < 1.0, "{percent}: {share}");
            assert!(these.iter().zip(&more).all(|(this, more)| !this || *more));
        }
    }

    #[test]
    fn another_salt_takes_other_keys() {
        let (a, b) = (Percent::new(50.0, "a").unwrap(), Percent::new(50.0, "b").unwrap());
        let same = (0..10_000u32).filter(|n| a.takes(&n.to_le_bytes()) == b.takes(&n.to_le_bytes())).count();
        assert!((4_500..5_500).contains(&same), "{same}");
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Percent::new(percent, ""), None, "{percent}");
        }
    }
}
