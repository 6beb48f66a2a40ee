//! TASK.STATE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{OwnedStr, Reply, Server, Str, Type};
use crate::task::entry::{self, Task};
use crate::task::groups::{self, text, with_groups};
use crate::task::id::{EntryId, IdArg, Priority};
use crate::task::policy::policy_of;
use crate::task::store::{self, RELEASED_IDLE};
use crate::task::{Cx, delayed, delayed_ids, held, moved};
use crate::time::UnixMs;

/// `TASK.STATE stream id [GROUP group]` returns a map: `state` (`ready`, `delayed`, `leased` or `held`), `id`
/// (the present one), `due_ms` (until a delayed or held task is due), `consumer` and `lease_left_ms` of a
/// leased task, `deliveries` (of the present entry), `retry_count`, and `ahead` (how many ready tasks
/// come before a ready one, counted up to 10,000). What does not apply is nil. The reply is nil if the
/// task is done, dead or unknown.
pub struct State;

/// How many tasks ahead are counted.
const AHEAD: usize = 10_000;

/// The arguments of TASK.STATE.
pub struct Request<'a> {
    stream: Str<'a>,
    id: IdArg<'a>,
    group: Option<Str<'a>>,
}

impl Command for State {
    const SPEC: Spec = Spec {
        name: c"task.state",
        summary: c"Returns the state of a task.",
        complexity: c"O(G+N) for G consumer groups and N ready tasks ahead, at most 10,000; \
                      O(log(M)^2) with M delayed tasks.",
        since: c"0.2.0",
        arity: -3,
        flags: "readonly",
        types: "stream",
        keys: &[Key { position: 1, access: Access::Read }],
        args: &[
            Arg::key(c"stream", 0),
            Arg::string(c"id"),
            Arg::string(c"group").after(c"GROUP").optional(),
        ],
    };
    type Family = crate::task::Task;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (stream, id) = (args.name()?, IdArg::read(args.any()?)?);
        let mut group = None;
        while let Some(option) = args.keyword() {
            if option.is("GROUP") && group.is_none() {
                group = Some(args.filled("group")?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(Request { stream, id, group })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let (cx, server) = (*cx, cx.server);
        let Request { stream: queue, id, group } = request;
        store::expect_stream(server, queue)?;
        store::check_places(server, queue, [id.id].into_iter())?;
        delayed::check(server, queue)?;
        let look = Look { cx, queue, group: group_of(cx, queue, group)? };
        let state = match look.at(id.id)? {
            Some(state) => Some(state),
            None => match moved::present(cx, queue, id.id)? {
                Some(present) => look.at(present)?,
                None => None,
            },
        };
        Ok(state.unwrap_or(Reply::NullArray))
    }
}

/// The group that is asked about: the named one, or the only one. `None` if there is none yet.
fn group_of(cx: Cx<'_>, queue: Str<'_>, named: Option<Str<'_>>) -> Result<Option<OwnedStr>, Error> {
    if cx.server.type_of(queue) != Type::Stream {
        return Ok(None);
    }
    match named {
        Some(group) if groups::has_group(cx, queue, group)? => {
            Ok(Some(OwnedStr::new(group.bytes())))
        }
        Some(_) => Err(Error::NoGroup),
        None if !groups::at_most_one(cx, queue)? => Err(Error::NameGroup),
        None => Ok(groups::only_group(cx, queue)?.map(|name| OwnedStr::new(&name))),
    }
}

/// The state of a task as far as it is common to all states.
struct Common<'t> {
    state: &'static str,
    id: EntryId,
    task: &'t Task<'t>,
}

impl Common<'_> {
    fn reply(
        &self,
        due: Reply<'static>,
        (consumer, left, deliveries): (Reply<'static>, Reply<'static>, i64),
        ahead: Reply<'static>,
    ) -> Reply<'static> {
        Reply::map([
            ("state", Reply::bulk(self.state.as_bytes())),
            ("id", Reply::Bulk(self.id.to_string().into_bytes())),
            ("due_ms", due),
            ("consumer", consumer),
            ("lease_left_ms", left),
            ("deliveries", Reply::Integer(deliveries)),
            ("retry_count", Reply::Integer(self.task.retry_count)),
            ("ahead", ahead),
        ])
    }
}

/// A look at a queue for one group.
struct Look<'a> {
    cx: Cx<'a>,
    queue: Str<'a>,
    group: Option<OwnedStr>,
}

impl Look<'_> {
    /// The state of the task with this present id.
    fn at(&self, id: EntryId) -> Result<Option<Reply<'static>>, Error> {
        let (server, queue) = (self.cx.server, self.queue);
        if let Some(member) = held::find(server, queue, id)? {
            let member = member.borrow().bytes();
            let group = held::group_of(member);
            let Some(held) = held::decode(member, group.as_deref()) else { return Ok(None) };
            let due = Reply::Integer(server.now().until(held.due).0);
            let common = Common { state: "held", id, task: &held.delayed.task };
            return Ok(Some(common.reply(due, (Reply::Null, Reply::Null, 0), Reply::Null)));
        }
        if id.priority().is_none()
            && let Some(member) = delayed_ids::find(server, queue, id)?
        {
            let member = member.borrow().bytes();
            let group = entry::group_of(member);
            // Of a task that a later version of the module has stored, only the id is known.
            let task = entry::decode(member, group.as_deref()).map(|stored| stored.task);
            let task = task.unwrap_or_default();
            if !self.concerns(&task)? {
                return Ok(None);
            }
            let due = UnixMs(i64::try_from(id.ms()).unwrap_or(i64::MAX));
            let due = Reply::Integer(server.now().until(due).0);
            let common = Common { state: "delayed", id, task: &task };
            return Ok(Some(common.reply(due, (Reply::Null, Reply::Null, 0), Reply::Null)));
        }
        for priority in store::places(id) {
            let stream = store::stream_of(server, queue, priority)?;
            let stream = stream.borrow();
            if server.type_of(stream) != Type::Stream
                || !server.peek_key(stream).has_entry(id.parts())
            {
                continue;
            }
            let state = self.entry(id, (priority, stream))?;
            if state.is_some() {
                return Ok(state);
            }
        }
        Ok(None)
    }

    /// The state of an entry; none if the group has finished it.
    fn entry(
        &self,
        id: EntryId,
        (priority, stream): (Priority, Str<'_>),
    ) -> Result<Option<Reply<'static>>, Error> {
        let server = self.cx.server;
        let text = OwnedStr::new(id.to_string().as_bytes());
        let Some(entry) = store::entry(server, stream, text.borrow())? else { return Ok(None) };
        let task = entry.task();
        if !self.concerns(&task)? {
            return Ok(None);
        }
        let lease = match &self.group {
            Some(group) => store::pending(server, stream, group.borrow(), text.borrow())?,
            None => None,
        };
        if let Some(lease) = lease {
            let policy = policy_of(self.cx, self.queue)?;
            let left = match (self.cx.family.lease(&policy), lease.idle) {
                (_, RELEASED_IDLE) => Reply::Integer(0),
                (Some(whole), idle) => Reply::Integer(whole.0.saturating_sub(idle).max(0)),
                (None, _) => Reply::Null,
            };
            let consumer = Reply::bulk(&lease.consumer);
            let common = Common { state: "leased", id, task: &task };
            let lease = (consumer, left, lease.deliveries);
            return Ok(Some(common.reply(Reply::Null, lease, Reply::Null)));
        }
        let last = self.last_read(stream)?;
        if id <= last {
            return Ok(None);
        }
        let ahead = Reply::Integer(self.ahead(id, priority, (stream, last))?);
        let common = Common { state: "ready", id, task: &task };
        Ok(Some(common.reply(Reply::Null, (Reply::Null, Reply::Null, 0), ahead)))
    }

    /// Whether the group gets this task: a copy for another group that exists is not for it.
    fn concerns(&self, task: &Task<'_>) -> Result<bool, Error> {
        match (task.group, &self.group) {
            (Some(of), Some(asked)) if of != asked.borrow().bytes() => {
                let of = OwnedStr::new(of);
                Ok(!groups::exists(self.cx, self.queue, of.borrow())?)
            }
            _ => Ok(true),
        }
    }

    /// The last entry of a stream that the group has read.
    fn last_read(&self, stream: Str<'_>) -> Result<EntryId, Error> {
        let Some(group) = &self.group else { return Ok(EntryId::default()) };
        if groups::are_too_many(self.cx, stream)? {
            return Err(Error::TaskGroups);
        }
        let name = group.borrow().bytes();
        with_groups(self.cx.server, stream, |all| {
            let mut all = all.elements();
            let ours = all.find(|info| text(*info, b"name") == Some(name));
            let last = ours.and_then(|info| text(info, b"last-delivered-id"));
            last.and_then(EntryId::parse).unwrap_or_default()
        })
    }

    /// How many ready tasks come before a ready one: those of its stream that are older, and all of a
    /// higher priority.
    fn ahead(
        &self,
        id: EntryId,
        priority: Priority,
        (stream, last): (Str<'_>, EntryId),
    ) -> Result<i64, Error> {
        let server: &Server = self.cx.server;
        let mut ahead = server.peek_key(stream).entries_between(last.parts(), id.parts(), AHEAD);
        for higher in Priority::ALL.into_iter().filter(|higher| *higher > priority) {
            let stream = store::stream_of(server, self.queue, higher)?;
            let stream = stream.borrow();
            if server.type_of(stream) != Type::Stream || ahead >= AHEAD {
                continue;
            }
            let last = self.last_read(stream)?;
            ahead += server.peek_key(stream).entries_behind(last.parts(), AHEAD - ahead).0;
        }
        Ok(i64::try_from(ahead).unwrap_or(i64::MAX))
    }
}
