//! TASK.REDRIVE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::names;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Reply, Str, integer, words};
use crate::task::entry::Task;
use crate::task::id::{EntryId, IdArg, Priority};
use crate::task::identity::{Birth, Move};
use crate::task::store::{self, Target};
use crate::task::{Cx, DEAD, groups, letters, line, moved};

/// `TASK.REDRIVE dead_stream stream [COUNT n | ID id ...]` moves dead letters back to a queue, the
/// oldest first, with a retry count of 0. The reply is their number, at most `n`, by default 1000. With
/// ID it moves those that are named by the original ids of their tasks, or by their own ids.
pub struct Redrive;

/// The arguments of TASK.REDRIVE.
pub struct Request<'a> {
    dead: Str<'a>,
    stream: Str<'a>,
    which: Which<'a>,
}

/// Which dead letters are moved.
enum Which<'a> {
    /// The oldest ones, this many.
    Oldest(i64),
    /// Those that these ids name.
    Named(Vec<IdArg<'a>>),
}

/// How many dead letters are moved without COUNT.
const COUNT: i64 = 1000;

/// How many are read at once.
const PAGE: i64 = 128;

impl Command for Redrive {
    const SPEC: Spec = Spec {
        name: c"task.redrive",
        summary: c"Moves dead letters back to a queue.",
        complexity: c"O(N) for N tasks moved; with ID also O(M) for M dead letters looked at.",
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
            Arg::one_of(
                c"which",
                &[
                    Arg::integer(c"count").after(c"COUNT"),
                    Arg::string(c"id").after(c"ID").multiple(),
                ],
            )
            .optional(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (dead, stream) = (args.name()?, args.name()?);
        if dead.bytes() == stream.bytes() {
            return Err(Error::SameStream);
        }
        let which = match args.keyword() {
            None => Which::Oldest(COUNT),
            Some(option) if option.is("COUNT") => Which::Oldest(args.at_least(1)?.value),
            Some(option) if option.is("ID") && args.more() => {
                let ids = args.all().iter().map(|id| IdArg::read(*id));
                Which::Named(ids.collect::<Result<_, _>>()?)
            }
            Some(_) => return Err(Error::Syntax),
        };
        Ok(Request { dead, stream, which })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { dead, stream: queue, which } = request;
        names::reject_other_slots(server, [dead, queue])?;
        names::reject_moving_slot(server, queue)?;
        for stream in [dead, queue] {
            store::expect_stream(server, stream)?;
        }
        let (last, moved, refused) = (None, 0, None);
        let returns = names::name_of(DEAD, dead.bytes()) == Some(queue.bytes());
        let mut letters = Letters { cx, dead, queue, returns, last, moved, refused };
        match which {
            Which::Oldest(count) => {
                while letters.moved < count && letters.move_page(PAGE.min(count - letters.moved))? {
                }
            }
            Which::Named(ids) => {
                let ids: Vec<EntryId> = ids.iter().map(|id| id.id).collect();
                for id in letters::find(server, dead, &ids)? {
                    let id = OwnedStr::new(id.to_string().as_bytes());
                    letters.move_range(id.borrow(), id.borrow(), 1)?;
                }
            }
        }
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
    /// Whether the tasks died in this queue.
    returns: bool,
    /// The last one that was read.
    last: Option<OwnedStr>,
    moved: i64,
    /// Why one stays where it is, if one does.
    refused: Option<Error>,
}

impl Letters<'_> {
    /// Moves the next `wanted` dead letters. Returns false if there are no more.
    fn move_page(&mut self, wanted: i64) -> Result<bool, Error> {
        let w = words();
        let after = self.last.take().map(|id| OwnedStr::concat(&[b"(", id.borrow().bytes()]));
        let from = after.as_ref().map_or(w.minimum(), OwnedStr::borrow);
        self.move_range(from, w.maximum(), wanted)
    }

    /// Moves up to `wanted` dead letters of a range. Returns false if there are no more.
    fn move_range(&mut self, from: Str<'_>, to: Str<'_>, wanted: i64) -> Result<bool, Error> {
        let (server, w) = (self.cx.server, words());
        let count = OwnedStr::number(wanted);
        let args = [self.dead, from, to, w.count(), count.borrow()];
        let found = server.call(c"XRANGE", Mode::Read, &args)?;
        let id_of = |entry: Element<'_>| OwnedStr::new(entry.at(0).map_or(&[], Element::bytes));
        let ids: Vec<OwnedStr> = found.root().elements().map(id_of).collect();
        let (mut gone, mut moves) = (vec![self.dead], Vec::new());
        for (entry, id) in found.root().elements().zip(&ids) {
            let task = Task::of(entry.at(1).into_iter().flat_map(Element::pairs));
            match self.revive(id.borrow(), task) {
                Ok(moved) => {
                    gone.push(id.borrow());
                    moves.extend(moved);
                }
                // It stays, and the others are tried.
                Err(error) => self.refused = Some(error),
            }
        }
        if gone.len() > 1 {
            server.call(c"XDEL", Mode::Write, &gone)?;
            moved::record(self.cx, self.queue, &moves)?;
            self.moved += gone.len() as i64 - 1;
        }
        let is_full = ids.len() as i64 >= wanted;
        drop(gone);
        self.last = ids.into_iter().next_back();
        Ok(is_full)
    }

    /// Adds the task of a dead letter to the queue. If it died there, it is known by its original id
    /// again.
    fn revive<'t>(&self, id: Str<'t>, mut task: Task<'t>) -> Result<Option<Move>, Error> {
        task.retry_count = 0;
        task.forget_expiry();
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
        let to = store::add_copy(self.cx, target, &task, &[])?;
        let original = task.original_id.and_then(EntryId::parse).filter(|_| self.returns);
        let from = EntryId::parse(id.bytes()).unwrap_or_default();
        Ok(original.map(|original| Move { original, birth: Birth::Claimed, from, to: Some(to) }))
    }
}
