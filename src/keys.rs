//! From a name to the keys that belong to it.
//!
//! Every derived key lies in the cluster slot of its name, and keys of different names differ.
//! Nothing here knows a server.

use crate::error::Error;
use crate::task::Priority;

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
    /// The tasks of a priority from 1 to 9.
    Priority(Priority),
    /// The tasks that are not due.
    Delayed,
    /// The dead letters of a queue.
    Dead,
    /// The policy of a queue.
    Policy,
    /// A task that was published once for all, see [`unique`].
    Unique,
}

impl Prefix {
    const fn text(self) -> &'static [u8] {
        match self {
            Prefix::Lock => b"lock",
            Prefix::Fence => b"fence",
            Prefix::CacheLock => b"cachelock",
            Prefix::Wait => b"wait",
            Prefix::Priority(priority) => priority.prefix(),
            Prefix::Delayed => b"delayed",
            Prefix::Dead => b"dead",
            Prefix::Policy => b"policy",
            Prefix::Unique => b"unique",
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

/// The key of a task of the queue `name` that is published once for all who use the same `id`. The
/// length of the name tells where the id begins.
pub fn unique(name: &[u8], id: &[u8], cluster: bool) -> Result<Vec<u8>, Error> {
    let [prefix, before, name, after] = derive(Prefix::Unique, name, cluster)?;
    let length = name.len().to_string();
    Ok([prefix, length.as_bytes(), before, name, after, b":", id].concat())
}

/// The name to which a key belongs, if it is a derived one of this kind.
pub fn name_of(prefix: Prefix, key: &[u8]) -> Option<&[u8]> {
    let rest = key.strip_prefix(prefix.text())?;
    let tagged = rest.strip_prefix(b"::");
    let made = rest.strip_prefix(b":{").and_then(|rest| rest.strip_suffix(b"}"));
    let bare = rest.strip_prefix(b":");
    let belongs = |name: &&[u8]| {
        !name.is_empty() && derive(prefix, name, false).is_ok_and(|parts| parts.concat() == key)
    };
    [tagged, made, bare].into_iter().flatten().find(belongs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn derive(prefix: Prefix, name: &[u8], cluster: bool) -> Result<Vec<u8>, Error> {
        super::derive(prefix, name, cluster).map(|parts| parts.concat())
    }

    fn prefixes() -> Vec<Prefix> {
        let mut all = vec![Prefix::Lock, Prefix::Fence, Prefix::CacheLock, Prefix::Wait];
        all.extend([Prefix::Delayed, Prefix::Dead, Prefix::Policy, Prefix::Unique]);
        all.extend(Priority::ALL.into_iter().skip(1).map(Prefix::Priority));
        all
    }

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
            for prefix in prefixes() {
                if let Ok(key) = derive(prefix, &name, true) {
                    prop_assert_eq!(slot(&key), slot(&name));
                    prop_assert_eq!(derive(prefix, &name, false).unwrap(), key);
                    let key = unique(&name, b"}{id", true).unwrap();
                    prop_assert_eq!(slot(&key), slot(&name));
                }
            }
        }

        #[test]
        fn different_names_have_different_keys(a in name(), b in name()) {
            for x in prefixes() {
                for y in prefixes() {
                    let same = derive(x, &a, false).unwrap() == derive(y, &b, false).unwrap();
                    prop_assert_eq!(same, a == b && x == y);
                }
            }
        }

        #[test]
        fn a_key_tells_the_name_that_it_belongs_to(name in name(), other in name()) {
            for prefix in prefixes() {
                let key = derive(prefix, &name, false).unwrap();
                prop_assert_eq!(name_of(prefix, &key), Some(name.as_slice()));
                if let Some(name) = name_of(prefix, &other) {
                    prop_assert_eq!(derive(prefix, name, false).unwrap(), other.clone());
                }
            }
        }

        #[test]
        fn every_unique_task_has_a_key_of_its_own(
            (a, x) in (name(), name()),
            (b, y) in (name(), name()),
        ) {
            let same = unique(&a, &x, false).unwrap() == unique(&b, &y, false).unwrap();
            prop_assert_eq!(same, a == b && x == y);
        }
    }
}
