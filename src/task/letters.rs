//! Finding dead letters by the original ids of their tasks, or by their own ids.

use super::entry::Task;
use super::id::EntryId;
use crate::error::Error;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Server, Str, words};
use std::collections::BTreeMap;

/// How many dead letters are looked at, and how many bytes of them.
const LETTERS: usize = 10_000;
const BYTES: usize = 8 << 20;

/// How many dead letters the first page has, and how many any page has at most. The length of a page
/// follows from the letters of the page before.
const FIRST_PAGE: usize = 16;
const PAGE: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// The dead letters that these ids name, in the order of the letters. An original id comes before the
/// id of a letter. A task dies after it was published, so the search begins with the letters of that
/// time; it is bounded.
pub fn find(server: &Server, dead: Str<'_>, ids: &[EntryId]) -> Result<Vec<EntryId>, Error> {
    let mut letters: BTreeMap<EntryId, Option<EntryId>> =
        ids.iter().map(|id| (*id, None)).collect();
    let first = ids.iter().map(|id| id.published().0).min().unwrap_or(0);
    let (mut from, mut page) = (OwnedStr::number(first), FIRST_PAGE);
    let (mut seen, mut bytes, mut missing) = (0, 0, letters.len());
    while missing > 0 && seen < LETTERS && bytes < BYTES {
        let count = OwnedStr::number(page as i64);
        let args = [dead, from.borrow(), words().maximum(), words().count(), count.borrow()];
        let found = server.call(c"XRANGE", Mode::Read, &args)?;
        let (number, before) = (found.root().len(), bytes);
        for letter in found.root().elements() {
            let id = letter.at(0).map_or(&[][..], Element::bytes);
            let fields = || letter.at(1).into_iter().flat_map(Element::pairs);
            bytes += fields().map(|(field, value)| field.len() + value.len()).sum::<usize>();
            let own = EntryId::parse(id).unwrap_or_default();
            let original = Task::of(fields()).original_id.and_then(EntryId::parse).unwrap_or(own);
            if let Some(letter) = letters.get_mut(&original).filter(|letter| letter.is_none()) {
                *letter = Some(own);
                missing -= 1;
            }
            from = OwnedStr::concat(&[b"(", id]);
        }
        seen += number;
        if number < page {
            break;
        }
        let average = (bytes - before) / number.max(1);
        page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE);
    }
    // An id that is not an original id may be the id of a dead letter.
    let exists = |id: EntryId| server.peek_key(dead).has_entry(id.parts());
    let named = letters.into_iter();
    let named = named.filter_map(|(id, letter)| letter.or_else(|| exists(id).then_some(id)));
    let mut named: Vec<EntryId> = named.collect();
    named.sort_unstable();
    named.dedup();
    Ok(named)
}
