//! TASK.REDRIVE

use super::entry::Task;
use super::id::Priority;
use super::store::{self, Target};
use super::{REDRIVEN, line};
use crate::args::{Args, Argument, integer};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Reply, Server, Str, Type, words};

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
            if !matches!(server.type_of(stream), Type::Absent | Type::Stream) {
                return Err(Error::WrongType);
            }
        }
        let (count, mut moved) = (count.unwrap_or(COUNT), 0);
        let mut outcome = Ok(());
        while moved < count && outcome.is_ok() {
            let wanted = PAGE.min(count - moved);
            let (page, error) = move_page(server, dead, queue, wanted)?;
            moved += page;
            outcome = error;
            if page < wanted {
                break;
            }
        }
        REDRIVEN.add(moved as u64);
        if moved > 0 {
            line::hand_over_all(server, queue.bytes());
        } else {
            outcome?;
        }
        Ok(Reply::Integer(moved))
    }
}

/// Moves the first `wanted` dead letters: how many it were, and what stopped it.
fn move_page(
    server: &Server,
    dead: Str<'_>,
    queue: Str<'_>,
    wanted: i64,
) -> Result<(i64, Result<(), Error>), Error> {
    let w = words();
    let count = OwnedStr::number(wanted);
    let args = [dead, w.minimum(), w.maximum(), w.count(), count.borrow()];
    let found = server.call(c"XRANGE", Mode::Read, &args)?;
    let ids: Vec<OwnedStr> = found
        .root()
        .elements()
        .map(|entry| OwnedStr::new(entry.at(0).map_or(&[], Element::bytes)))
        .collect();
    let mut gone = vec![dead];
    let mut outcome = Ok(());
    for (entry, id) in found.root().elements().zip(&ids) {
        let fields = entry.at(1).into_iter().flat_map(Element::pairs);
        outcome = revive(server, queue, id.borrow(), Task::of(fields));
        if outcome.is_err() {
            break;
        }
        gone.push(id.borrow());
    }
    let moved = gone.len().saturating_sub(1);
    if moved > 0 {
        server.call(c"XDEL", Mode::Write, &gone)?;
    }
    Ok((moved as i64, outcome))
}

fn revive<'t>(
    server: &Server,
    queue: Str<'_>,
    id: Str<'t>,
    mut task: Task<'t>,
) -> Result<(), Error> {
    task.retry_count = 0;
    task.original_id = task.original_id.or(Some(id.bytes()));
    let priority = task.forget_death().and_then(integer);
    let priority = priority.and_then(|number| Priority::new(u64::try_from(number).ok()?));
    let target = Target::Queue(queue, priority.unwrap_or(Priority::LOWEST));
    store::add_copy(server, target, &task, &[])
}
