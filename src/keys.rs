//! From a name to the keys that belong to it.
//!
//! Every derived key lies in the cluster slot of its name, and keys of different names differ.
//! Nothing here knows a server.

use crate::error::Error;

/// What a derived key is for. The text is the first part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// The holder of a lock.
    Lock,
    /// The last fencing token of a lock.
    Fence,
    /// The loader's lease on a cached value.
    CacheLock,
    /// The key on which clients block. Nobody writes it.
    Wait,
}

impl Prefix {
    const fn text(self) -> &'static [u8] {
        match self {
            Prefix::Lock => b"lock",
            Prefix::Fence => b"fence",
            Prefix::CacheLock => b"cachelock",
            Prefix::Wait => b"wait",
        }
    }
}

/// The part of a key that decides its cluster slot, if the key has a valid hash tag: what stands
/// between the first `{` and the first `}` after it, unless that is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|b| *b == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|b| *b == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// The cluster slot of a key: CRC16-CCITT (XMODEM) of its hash tag, or of the whole key, as in the
/// Redis Cluster specification.
pub fn slot(key: &[u8]) -> u16 {
    let crc = hash_tag(key).unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16384
}

/// The key that belongs to `name`, in the slot of `name`:
///
/// * `orders{42}` has a hash tag of its own: `lock::orders{42}`;
/// * `orders` becomes the hash tag: `lock:{orders}`;
/// * `a}b` can be neither: `lock:a}b` outside cluster mode, [`Error::NameInCluster`] in it.
///
/// The key is given in parts, so that whoever needs it in one piece decides where it is put.
pub fn derive(prefix: Prefix, name: &[u8], cluster: bool) -> Result<[&[u8]; 4], Error> {
    let (before, after): (&[u8], &[u8]) = if hash_tag(name).is_some() {
        (b"::", b"")
    } else if !name.contains(&b'}') {
        (b":{", b"}")
    } else if cluster {
        return Err(Error::NameInCluster);
    } else {
        (b":", b"")
    };
    Ok([prefix.text(), before, name, after])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn derive(prefix: Prefix, name: &[u8], cluster: bool) -> Result<Vec<u8>, Error> {
        super::derive(prefix, name, cluster).map(|parts| parts.concat())
    }

    const PREFIXES: [Prefix; 4] = [Prefix::Lock, Prefix::Fence, Prefix::CacheLock, Prefix::Wait];

    /// Names in which the bytes that matter are frequent.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b'{'), Just(b'}'), Just(b':'), Just(b'a'), any::<u8>()];
        prop::collection::vec(byte, 1..12)
    }

    #[test]
    fn the_slot_function_agrees_with_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(hash_tag(b"foo{}{bar}"), None);
        assert_eq!(hash_tag(b"foo{{bar}}zap"), Some(b"{bar".as_slice()));
    }

    #[test]
    fn each_shape_of_name_has_its_key() {
        let derive = |name: &str, cluster| derive(Prefix::Lock, name.as_bytes(), cluster);
        assert_eq!(derive("orders", true).unwrap(), b"lock:{orders}");
        assert_eq!(derive("orders{42}", true).unwrap(), b"lock::orders{42}");
        assert_eq!(derive("open{brace", true).unwrap(), b"lock:{open{brace}");
        assert_eq!(derive("a}b", false).unwrap(), b"lock:a}b");
        assert_eq!(derive("a}b", true), Err(Error::NameInCluster));
        assert_eq!(derive("filter:{}", true), Err(Error::NameInCluster));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_derived_key_lies_in_the_slot_of_its_name(name in name()) {
            for prefix in PREFIXES {
                if let Ok(key) = derive(prefix, &name, true) {
                    prop_assert_eq!(slot(&key), slot(&name));
                    prop_assert_eq!(derive(prefix, &name, false).unwrap(), key);
                }
            }
        }

        #[test]
        fn different_names_have_different_keys(a in name(), b in name()) {
            for x in PREFIXES {
                for y in PREFIXES {
                    let same = derive(x, &a, false).unwrap() == derive(y, &b, false).unwrap();
                    prop_assert_eq!(same, a == b && x == y);
                }
            }
        }
    }
}
