//! TASK.REDRIVE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Reply, Str, integer, words};
use crate::task::entry::Task;
use crate::task::id::Priority;
use crate::task::store::{self, Target};
use crate::task::{Cx, groups, line};

/// `TASK.REDRIVE dead_stream stream [COUNT n]` moves dead letters back to a queue, the oldest first,
/// with a retry count of 0. The reply is their number, at most `n`, by default 1000.
pub struct Redrive;

/// The arguments of TASK.REDRIVE.
pub struct Request<'a> {
    dead: Str<'a>,
    stream: Str<'a>,
    count: Option<i64>,
}

/// How many dead letters are moved without COUNT.
const COUNT: i64 = 1000;

/// How many are read at once.
const PAGE: i64 = 128;

impl Command for Redrive {
    const SPEC: Spec = Spec {
        name: c"task.redrive",
        summary: c"Moves dead letters back to a queue.",
        complexity: c"O(N) for N tasks moved.",
        since: c"0.2.0",
        arity: -3,
        flags: "write",
        types: "stream",
        keys: &[
            Key { position: 1, access: Access::Delete },
            Key { position: 2, access: Access::Insert },
        ],
        args: &[
            Arg::key(c"dead_stream", 0),
            Arg::key(c"stream", 1),
            Arg::integer(c"count").after(c"COUNT").optional(),
        ],
    };
    type Family = crate::task::Task;
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

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { dead, stream: queue, count } = request;
        names::reject_other_slots(server, [dead, queue])?;
        names::reject_moving_slot(server, queue)?;
        for stream in [dead, queue] {
            store::expect_stream(server, stream)?;
        }
        let count = count.unwrap_or(COUNT);
        let mut letters = Letters { cx, dead, queue, last: None, moved: 0, refused: None };
        while letters.moved < count && letters.move_page(PAGE.min(count - letters.moved))? {}
        cx.family.counters.redriven.add(letters.moved as u64);
        if letters.moved > 0 {
            line::hand_over_all(cx, queue.bytes());
        }
        match letters.refused {
            Some(error) if letters.moved == 0 => Err(error),
            _ => Ok(Reply::Integer(letters.moved)),
        }
    }
}

/// Dead letters on their way back.
struct Letters<'a> {
    cx: Cx<'a>,
    dead: Str<'a>,
    queue: Str<'a>,
    /// The last one that was read.
    last: Option<OwnedStr>,
    moved: i64,
    /// Why one stays where it is, if one does.
    refused: Option<Error>,
}

impl Letters<'_> {
    /// Moves the next `wanted` dead letters. Returns false if there are no more.
    fn move_page(&mut self, wanted: i64) -> Result<bool, Error> {
        let (server, w) = (self.cx.server, words());
        let after = self.last.take().map(|id| OwnedStr::concat(&[b"(", id.borrow().bytes()]));
        let from = after.as_ref().map_or(w.minimum(), OwnedStr::borrow);
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
                // It stays, and the others are tried.
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
        // In a queue without that group nobody would get it.
        if let Some(group) = task.group.map(OwnedStr::new)
            && !groups::exists(self.cx, self.queue, group.borrow())?
        {
            task.group = None;
        }
        let target = Target::Queue(self.queue, priority.unwrap_or(Priority::LOWEST));
        store::add_copy(self.cx, target, &task, &[])
    }
}
