//! From a name to the keys that belong to it, and to its cluster slot.
//!
//! Every derived key lies in the slot of its name, and different names have different keys. Each
//! family defines the prefixes of its own keys.

use crate::error::Error;
use crate::server::{Mode, OwnedStr, Server, Str};

/// The first part of a derived key, such as `lock`. It contains no `:`, `{` or `}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(pub &'static [u8]);

/// The key on which the clients that wait for a name block. It is never written.
pub const WAIT: Prefix = Prefix(b"wait");

/// A second key that is never written, see [`reject_moving_slot`].
const PROBE: Prefix = Prefix(b"slot");

/// The part of a key that decides its cluster slot, if the key has a valid hash tag: the bytes
/// between the first `{` and the first `}` after it, unless there are none.
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
/// * `a}b` can do neither: `lock:a}b` outside cluster mode, [`Error::NameInCluster`] in it.
///
/// The key is returned in parts, so that the caller decides where to assemble it.
pub fn derive(prefix: Prefix, name: &[u8], cluster: bool) -> Result<[&[u8]; 4], Error> {
    // Most names have no brace, which is seen without a branch for each byte.
    let braces = name.iter().fold(false, |any, byte| any | matches!(byte, b'{' | b'}'));
    let (before, after): (&[u8], &[u8]) = if !braces {
        (b":{", b"}")
    } else if hash_tag(name).is_some() {
        (b"::", b"")
    } else if !name.contains(&b'}') {
        (b":{", b"}")
    } else if cluster {
        return Err(Error::NameInCluster);
    } else {
        (b":", b"")
    };
    Ok([prefix.0, before, name, after])
}

/// The name to which a key belongs, if it is derived with this prefix.
#[inline(always)]
pub fn name_of(prefix: Prefix, key: &[u8]) -> Option<&[u8]> {
    // For a constant prefix, a foreign key costs one comparison.
    name_after(prefix, key, key.strip_prefix(prefix.0)?)
}

/// As [`name_of`], given what follows the prefix.
#[inline(never)]
fn name_after<'k>(prefix: Prefix, key: &'k [u8], rest: &'k [u8]) -> Option<&'k [u8]> {
    let tagged = rest.strip_prefix(b"::");
    let made = rest.strip_prefix(b":{").and_then(|rest| rest.strip_suffix(b"}"));
    let bare = rest.strip_prefix(b":");
    // The parts of its derived key, one after the other, are the key.
    let belongs = |name: &&[u8]| {
        !name.is_empty()
            && derive(prefix, name, false).is_ok_and(|parts| {
                let strip = |rest: Option<&'k [u8]>, part: &&[u8]| rest?.strip_prefix(*part);
                parts.iter().fold(Some(key), strip) == Some(&[])
            })
    };
    [tagged, made, bare].into_iter().flatten().find(belongs)
}

/// The key that belongs to `name`, see [`derive`].
pub fn key_of(server: &Server, prefix: Prefix, name: Str<'_>) -> Result<OwnedStr, Error> {
    Ok(OwnedStr::concat(&derive(prefix, name.bytes(), server.is_in_cluster())?))
}

/// Returns [`Error::CrossSlot`] unless all names share a cluster slot. The server checks only the
/// keys of a command's legacy range.
pub fn reject_other_slots<'a>(
    server: &Server,
    names: impl IntoIterator<Item = Str<'a>>,
) -> Result<(), Error> {
    if !server.is_in_cluster() {
        return Ok(());
    }
    let mut slots = names.into_iter().map(|name| slot(name.bytes()));
    let first = slots.next();
    if slots.any(|slot| Some(slot) != first) { Err(Error::CrossSlot) } else { Ok(()) }
}

/// Returns [`Error::SlotMoves`] while the slot of `name` migrates between cluster nodes.
///
/// The name itself often does not exist as a key, so the server would redirect the client to the
/// other node, which would then grant as well. The server rejects an inner command on keys that do
/// not exist exactly while their slot is being migrated or imported.
#[inline]
pub fn reject_moving_slot(server: &Server, name: Str<'_>) -> Result<(), Error> {
    if server.is_in_cluster() { probe_slot(server, name) } else { Ok(()) }
}

#[cold]
fn probe_slot(server: &Server, name: Str<'_>) -> Result<(), Error> {
    let (wait, probe) = (key_of(server, WAIT, name)?, key_of(server, PROBE, name)?);
    match server.call(c"EXISTS", Mode::Read, &[wait.borrow(), probe.borrow()]) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::SlotMoves),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOCK: Prefix = Prefix(b"lock");

    fn derive(prefix: Prefix, name: &[u8], cluster: bool) -> Result<Vec<u8>, Error> {
        super::derive(prefix, name, cluster).map(|parts| parts.concat())
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let texts: [&[u8]; 13] = [
            b"lock",
            b"fence",
            b"cachelock",
            b"wait",
            b"slot",
            b"priority1",
            b"priority9",
            b"delayed",
            b"dead",
            b"policy",
            b"taskmoved",
            b"taskmarks",
            b"taskheld",
        ];
        prop::sample::select(texts.map(Prefix).to_vec())
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
        let derive = |name: &str, cluster| derive(LOCK, name.as_bytes(), cluster);
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
        fn a_derived_key_lies_in_the_slot_of_its_name(prefix in prefix(), name in name()) {
            if let Ok(key) = derive(prefix, &name, true) {
                prop_assert_eq!(slot(&key), slot(&name));
                prop_assert_eq!(derive(prefix, &name, false).unwrap(), key);
            }
        }

        #[test]
        fn different_names_have_different_keys(
            (x, a) in (prefix(), name()),
            (y, b) in (prefix(), name()),
        ) {
            let same = derive(x, &a, false).unwrap() == derive(y, &b, false).unwrap();
            prop_assert_eq!(same, a == b && x == y);
        }

        #[test]
        fn a_key_leads_back_to_its_name(prefix in prefix(), name in name(), other in name()) {
            let key = derive(prefix, &name, false).unwrap();
            prop_assert_eq!(name_of(prefix, &key), Some(name.as_slice()));
            if let Some(name) = name_of(prefix, &other) {
                prop_assert_eq!(derive(prefix, name, false).unwrap(), other.clone());
            }
        }
    }
}
