//! A UNIQUE id that ends with its task, and a task that the last publish wins: the decisions. Nothing
//! here depends on a server.
//!
//! A publish with UNTIL or LAST leaves a *mark*: the field of its original id in `taskmarks:{stream}`,
//! with the value `<until> <successor> <unique id>`. `<until>` says when the deduplication window ends:
//! at the first delivery (`start`), at the end of the task (`done`), or with its time alone (`time`).
//! `<successor>` is the id of the task that is held until this one has ended, or `-`.

use super::id::EntryId;
use crate::time::UnixMs;

/// What ends a window, beside its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The first delivery of the task.
    Start,
    /// The end of the task.
    Done,
    /// Nothing.
    Time,
}

impl Until {
    const ALL: [(Self, &'static [u8]); 3] =
        [(Self::Start, b"start"), (Self::Done, b"done"), (Self::Time, b"time")];

    fn word(self) -> &'static [u8] {
        Self::ALL.iter().find(|(until, _)| *until == self).map_or(b"time", |(_, word)| word)
    }
}

/// A mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// What ends the window.
    pub until: Until,
    /// The task that is held until this one has ended.
    pub successor: Option<EntryId>,
    /// The UNIQUE id.
    pub unique: &'a [u8],
}

impl<'a> Mark<'a> {
    /// Reads a value; `None` if it has another form.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let mut words = value.splitn(3, |byte| *byte == b' ');
        let until = words.next()?;
        let (until, _) = Until::ALL.into_iter().find(|(_, word)| *word == until)?;
        let successor = match words.next()? {
            b"-" => None,
            id => Some(EntryId::parse(id)?),
        };
        Some(Self { until, successor, unique: words.next()? })
    }

    /// The value that stores it.
    pub fn encode(&self) -> Vec<u8> {
        let successor = self.successor.map_or_else(|| "-".to_owned(), |id| id.to_string());
        [self.until.word(), b" ", successor.as_bytes(), b" ", self.unique].concat()
    }

    /// Whether the window ends with the task.
    pub fn ends_with_task(&self) -> bool {
        self.until != Until::Time
    }
}

/// When a task is due that takes the place of one which is delayed until `before` and was tried
/// `retry_count` times. `due` is what was asked for; `None` means now. A task in back-off is not tried
/// before its time.
pub fn due(before: UnixMs, retry_count: i64, due: Option<UnixMs>, now: UnixMs) -> Option<UnixMs> {
    let due = if retry_count > 0 { due.max(Some(before)) } else { due };
    due.filter(|due| *due > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mark_is_readable_text() {
        let mark = Mark { until: Until::Done, successor: None, unique: b"report of 7" };
        assert_eq!(mark.encode(), b"done - report of 7");
        let successor = EntryId::parse(b"5-1100000000000000007");
        let mark = Mark { until: Until::Start, successor, ..mark };
        assert_eq!(mark.encode(), b"start 5-1100000000000000007 report of 7");
    }

    #[test]
    fn a_task_in_back_off_is_not_tried_before_its_time() {
        let (now, soon, late) = (UnixMs(10), Some(UnixMs(20)), Some(UnixMs(30)));
        for asked in [None, soon] {
            assert_eq!(due(UnixMs(30), 0, asked, now), asked);
            assert_eq!(due(UnixMs(30), 1, asked, now), late);
            // Its time has come.
            assert_eq!(due(UnixMs(5), 1, asked, now), asked);
        }
        assert_eq!(due(UnixMs(20), 1, late, now), late);
    }

    proptest! {
        #[test]
        fn an_encoded_mark_decodes_to_itself(
            until in prop::sample::select(&[Until::Start, Until::Done, Until::Time][..]),
            successor in prop::option::of((any::<u64>(), any::<u64>())),
            unique: Vec<u8>,
        ) {
            let successor = successor
                .and_then(|(ms, seq)| EntryId::parse(format!("{ms}-{seq}").as_bytes()));
            let mark = Mark { until, successor, unique: &unique };
            let value = mark.encode();
            prop_assert_eq!(Mark::parse(&value), Some(mark));
        }

        #[test]
        fn no_value_makes_the_decoder_panic(value: Vec<u8>, text in "(start|done|time)?[-0-9 ]{0,20}") {
            let _ = (Mark::parse(&value), Mark::parse(text.as_bytes()));
        }
    }
}
