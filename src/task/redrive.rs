//! TASK.REDRIVE

use super::entry::Task;
use super::id::Priority;
use super::store::{self, Target};
use super::{REDRIVEN, groups, line};
use crate::args::{Args, Argument, integer};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, words};

/// `TASK.REDRIVE dead_stream stream [COUNT n]` moves dead letters, the oldest first, back to a queue,
/// as if they had never been tried. The reply is their number, at most `n`, by default 1000.
pub struct Redrive;

/// The arguments of TASK.REDRIVE.
pub struct Request<'a> {
    dead: Str<'a>,
    stream: Str<'a>,
    count: Option<i64>,
}

/// How many dead letters are moved if nothing is said.
const COUNT: i64 = 1000;

/// How many are read at once.
const PAGE: i64 = 128;

impl Command for Redrive {
    const SPEC: Spec = Spec {
        name: c"task.redrive",
        summary: c"Moves dead letters back to a queue.",
        complexity: c"O(N) for N tasks moved.",
        since: c"0.1.0",
        arity: -3,
        flags: c"write",
        categories: c"write stream slow",
        keys: &[
            Key { position: 1, access: Access::Delete },
            Key { position: 2, access: Access::Insert },
        ],
        legacy_keys: (1, 2, 1),
        args: &[
            Arg::key(c"dead_stream", 0),
            Arg::key(c"stream", 1),
            Arg::integer(c"count").after(c"COUNT").optional(),
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (dead, stream) = (args.name()?, args.name()?);
        if dead.bytes() == stream.bytes() {
            return Err(Error::SameStream);
        }
        let mut count = None;
        while let Some(option) = args.keyword() {
            if option.is("COUNT") && count.is_none() {
                count = Some(args.at_least(1)?.value);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { dead, stream, count })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { dead, stream: queue, count } = request;
        server.refuse_other_slots([dead, queue])?;
        server.refuse_while_slot_moves(queue)?;
        for stream in [dead, queue] {
            store::expect_stream(server, stream)?;
        }
        let count = count.unwrap_or(COUNT);
        let mut letters = Letters { server, dead, queue, last: None, moved: 0, refused: None };
        while letters.moved < count && letters.move_page(PAGE.min(count - letters.moved))? {}
        REDRIVEN.add(letters.moved as u64);
        if letters.moved > 0 {
            line::hand_over_all(server, queue.bytes());
        }
        match letters.refused {
            Some(error) if letters.moved == 0 => Err(error),
            _ => Ok(Reply::Integer(letters.moved)),
        }
    }
}

/// Dead letters on their way back.
struct Letters<'a> {
    server: &'a Server,
    dead: Str<'a>,
    queue: Str<'a>,
    /// The last one that was looked at.
    last: Option<OwnedStr>,
    moved: i64,
    /// Why one stays where it is, if one does.
    refused: Option<Error>,
}

impl Letters<'_> {
    /// Moves the next `wanted` dead letters. False if there are no more.
    fn move_page(&mut self, wanted: i64) -> Result<bool, Error> {
        let (server, w) = (self.server, words());
        let behind = self.last.take().map(|id| OwnedStr::concat(&[b"(", id.borrow().bytes()]));
        let from = behind.as_ref().map_or(w.minimum(), OwnedStr::borrow);
        let count = OwnedStr::number(wanted);
        let args = [self.dead, from, w.maximum(), w.count(), count.borrow()];
        let found = server.call(c"XRANGE", Mode::Read, &args)?;
        let id_of = |entry: Element<'_>| OwnedStr::new(entry.at(0).map_or(&[], Element::bytes));
        let ids: Vec<OwnedStr> = found.root().elements().map(id_of).collect();
        let mut gone = vec![self.dead];
        for (entry, id) in found.root().elements().zip(&ids) {
            let task = Task::of(entry.at(1).into_iter().flat_map(Element::pairs));
            match self.revive(id.borrow(), task) {
                Ok(()) => gone.push(id.borrow()),
                // It stays; the others may be luckier.
                Err(error) => self.refused = Some(error),
            }
        }
        if gone.len() > 1 {
            server.call(c"XDEL", Mode::Write, &gone)?;
            self.moved += gone.len() as i64 - 1;
        }
        let is_full = ids.len() as i64 >= wanted;
        drop(gone);
        self.last = ids.into_iter().next_back();
        Ok(is_full)
    }

    fn revive<'t>(&self, id: Str<'t>, mut task: Task<'t>) -> Result<(), Error> {
        task.retry_count = 0;
        let priority = task.forget_death().and_then(integer);
        let priority = priority.and_then(|number| Priority::new(u64::try_from(number).ok()?));
        task.original_id = task.original_id.or(Some(id.bytes()));
        // In a queue without that group it would be for nobody.
        if let Some(group) = task.group.map(OwnedStr::new)
            && !groups::exists(self.server, self.queue, group.borrow())?
        {
            task.group = None;
        }
        let target = Target::Queue(self.queue, priority.unwrap_or(Priority::LOWEST));
        store::add_copy(self.server, target, &task, &[])
    }
}
