//! What a history of tasks must keep, checked at the end of each transaction. Each payload is published
//! once, so it names what was asked for: what it begins with, up to `-`, is its UNIQUE id, and that begins
//! with one of [`MODES`] if there is one. What follows `+` is a checkpoint.
//!
//! * A task has one copy: in a stream, delayed, held or dead. It disappears only after it was done, in
//!   the transaction that cancels it, or when the last publish of its UNIQUE id takes its place. A task
//!   that is leased is never replaced.
//! * No lease is taken from a consumer before it ends.
//! * A window of UNIQUE lasts as long as its time or its task says. Until then there is one task with its
//!   id, and with LAST one more that is held.
//! * `taskmoved:` names exactly the tasks that have moved, `taskmarks:` those that have a mark, and a task
//!   is held exactly while the one before it lives. What a plain client has deleted is forgotten later, by
//!   the sweep.

use crate::check::{after, word};
use crate::support::Command;
use crate::tasks::TASK_LEASE;
use std::collections::{BTreeMap, BTreeSet};

/// A queue, and an id or a name in it.
type Name = (String, String);

/// How a task was published with UNIQUE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mode {
    /// The name.
    pub name: &'static str,
    /// The options.
    pub options: &'static str,
    /// How long its window lasts, in ms.
    pub window: i64,
}

/// A window that does not end by its time.
const LONG: i64 = 36_000_000;

/// The ways to publish a task with UNIQUE. Windows of the first two end by their time.
pub const MODES: [Mode; 6] = [
    Mode { name: "time", options: "", window: 150 },
    Mode { name: "timelast", options: "LAST", window: 150 },
    Mode { name: "start", options: "UNTIL START", window: LONG },
    Mode { name: "startlast", options: "UNTIL START LAST", window: LONG },
    Mode { name: "done", options: "UNTIL DONE", window: LONG },
    Mode { name: "donelast", options: "UNTIL DONE LAST", window: LONG },
];

impl Mode {
    fn is_last(self) -> bool {
        self.options.ends_with("LAST")
    }

    fn is_until_start(self) -> bool {
        self.options.starts_with("UNTIL START")
    }
}

/// The UNIQUE id that a payload names, if it names one.
fn unique_of(payload: &str) -> Option<(&str, Mode)> {
    let (unique, _) = payload.split_once('-')?;
    let name = unique.trim_end_matches(|c: char| c.is_ascii_digit());
    let mode = MODES.into_iter().find(|mode| mode.name == name)?;
    Some((unique, mode))
}

/// A payload without its checkpoint.
pub fn base(payload: &str) -> &str {
    payload.split('+').next().unwrap_or_default()
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Ready,
    Delayed,
    /// Behind the task with this original id.
    Held(String),
    Dead,
}

/// A copy of a task.
#[derive(Clone, Debug)]
struct Copy {
    payload: String,
    /// The queue, and the original id.
    task: Name,
    id: String,
    place: Place,
    /// The consumer that holds it, and since when.
    lease: Option<(String, i64)>,
}

/// A task, by its original id.
#[derive(Default)]
struct Task {
    /// The keys and the entries, or members, of its copies.
    copies: Vec<Name>,
    unique: Option<(String, Mode)>,
    was_delivered: bool,
    /// Whether it was a dead letter: if it is redriven, it has no mark and no window.
    has_died: bool,
    /// Whether a plain client has deleted it.
    was_deleted: bool,
}

/// How a task ended whose payload has disappeared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// It was done.
    Done,
    /// It was cancelled.
    Cancelled,
    /// A plain client has deleted it.
    Deleted,
    /// A later one took its place.
    Replaced,
}

/// Where a payload is.
#[derive(Default)]
struct Payload {
    task: Name,
    copies: usize,
    end: Option<End>,
    /// Whether the copy that went last was leased.
    was_leased: bool,
}

/// The tasks.
#[derive(Default)]
pub struct TaskHistory {
    copies: BTreeMap<Name, Copy>,
    tasks: BTreeMap<Name, Task>,
    payloads: BTreeMap<String, Payload>,
    done: BTreeSet<String>,
    /// The tasks with a UNIQUE id that are ready, leased or delayed, and were never dead, by that id.
    live: BTreeMap<Name, BTreeSet<String>>,
    /// The task that is held, by the one before it.
    held: BTreeMap<Name, String>,
    /// The fields of `taskmoved:` and `taskmarks:`.
    moved: BTreeMap<Name, String>,
    marks: BTreeMap<Name, String>,
    /// The task of each window, and when the window ends.
    windows: BTreeMap<Name, (String, i64)>,
    transaction: Transaction,
    in_transaction: bool,
    /// How often a lease began.
    pub leases: usize,
    /// How often a task was held, was redriven, and died because it had expired.
    pub held_tasks: usize,
    /// See above.
    pub redriven: usize,
    /// See above.
    pub expired: usize,
}

/// What has changed in a transaction.
#[derive(Default)]
struct Transaction {
    tasks: BTreeSet<Name>,
    payloads: BTreeSet<String>,
    /// The tasks that it may cancel.
    cancelling: BTreeSet<Name>,
    /// The tasks that it may delete, as a plain client does.
    deleting: BTreeSet<Name>,
}

fn text(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg).into_owned()
}

/// The prefix and the queue of a key.
fn parts(key: &str) -> (&str, &str) {
    key.split_once("::").unwrap_or(("", key))
}

/// The present id, the original one and the payload of a member of `delayed:`.
fn member(member: &str) -> Option<(String, String, String)> {
    let words: Vec<&str> = member.splitn(5, ' ').collect();
    let [ids, _, tries, _, rest] = words[..] else { return None };
    let (id, original) = ids.split_once(':').unwrap_or((ids, ids));
    let payload = if tries.ends_with('+') {
        let (length, value) = rest.strip_prefix("7:payload")?.split_once(':')?;
        value.get(..length.parse().ok()?)?
    } else {
        rest
    };
    Some((id.to_owned(), original.to_owned(), payload.to_owned()))
}

impl TaskHistory {
    /// Whether a task was published.
    pub fn knows(&self, payload: &str) -> bool {
        self.payloads.contains_key(payload)
    }

    /// All payloads, with how they have ended. Those that are still there have not.
    pub fn ends(&self) -> impl Iterator<Item = (&str, Option<End>)> {
        self.payloads.iter().map(|(payload, found)| (payload.as_str(), found.end))
    }

    /// The payloads that are dead letters, and what is still there besides.
    pub fn rest(&self) -> (BTreeSet<String>, Vec<String>) {
        let (dead, rest): (Vec<&Copy>, Vec<&Copy>) =
            self.copies.values().partition(|copy| copy.place == Place::Dead);
        let dead = dead.into_iter().map(|copy| copy.payload.clone()).collect();
        let copies = rest.into_iter().map(|copy| format!("{copy:?}"));
        let moved = self.moved.iter().map(|moved| format!("moved: {moved:?}"));
        let marks = self.marks.iter().map(|mark| format!("mark: {mark:?}"));
        (dead, copies.chain(moved).chain(marks).collect())
    }

    fn touch(&mut self, copy: &Copy) {
        self.transaction.tasks.insert(copy.task.clone());
        self.transaction.payloads.insert(copy.payload.clone());
    }

    #[track_caller]
    fn add(&mut self, name: Name, copy: Copy) {
        self.touch(&copy);
        let task = self.tasks.entry(copy.task.clone()).or_default();
        let unique = unique_of(&copy.payload).map(|(unique, mode)| (unique.to_owned(), mode));
        if task.unique.is_none() {
            task.unique.clone_from(&unique);
        }
        assert_eq!(task.unique, unique, "another UNIQUE id: {copy:?}");
        task.copies.push(name.clone());
        task.has_died |= copy.place == Place::Dead;
        self.held_tasks += usize::from(matches!(copy.place, Place::Held(_)));
        let payload = self
            .payloads
            .entry(copy.payload.clone())
            .or_insert_with(|| Payload { task: copy.task.clone(), ..Payload::default() });
        assert_eq!(payload.task, copy.task, "another original id: {copy:?}");
        assert_eq!(payload.end, None, "it comes back: {copy:?}");
        payload.copies += 1;
        let before = self.copies.insert(name, copy);
        assert!(before.is_none(), "added twice: {before:?}");
    }

    #[track_caller]
    fn remove(&mut self, name: &Name) {
        let Some(copy) = self.copies.remove(name) else { return };
        self.touch(&copy);
        self.redriven += usize::from(copy.place == Place::Dead);
        let task = self.tasks.get_mut(&copy.task).expect("a known task");
        task.copies.retain(|other| other != name);
        let payload = self.payloads.get_mut(&copy.payload).expect("a known payload");
        payload.copies -= 1;
        payload.was_leased = copy.lease.is_some();
    }

    /// Applies the next command.
    #[track_caller]
    pub fn apply(&mut self, command: &Command) {
        let key = command.get(1).map(|_| word(command, 1)).unwrap_or_default().to_owned();
        let (prefix, queue) = parts(&key);
        let queue = queue.to_owned();
        match command.name().as_str() {
            "MULTI" => self.in_transaction = true,
            "EXEC" => self.in_transaction = false,
            "XADD" => self.added(&key, command),
            "XDEL" => command[2..].iter().for_each(|id| self.remove(&(key.clone(), text(id)))),
            "ZADD" => {
                let stored = text(command.last().expect("a member"));
                let (place, rest) = if prefix == "taskheld" {
                    let mut words = stored.splitn(3, ' ');
                    let before = words.nth(1).expect("a task before it").to_owned();
                    (Place::Held(before), words.next().expect("a task"))
                } else {
                    (Place::Delayed, stored.as_str())
                };
                let found = member(rest).unwrap_or_else(|| panic!("no task: {command}"));
                let (id, original, payload) = found;
                let (task, payload) = ((queue, original), base(&payload).to_owned());
                self.add((key, stored), Copy { payload, task, id, place, lease: None });
            }
            "ZREM" => command[2..].iter().for_each(|stored| {
                self.remove(&(key.clone(), text(stored)));
            }),
            "HSET" | "HDEL" if prefix == "taskmoved" || prefix == "taskmarks" => {
                self.follow(prefix == "taskmoved", &queue, command);
            }
            "SET" if key == "cancelling" || key == "deleting" => {
                let (queue, id) = word(command, 2).split_once('/').expect("a queue and an id");
                let Transaction { cancelling, deleting, .. } = &mut self.transaction;
                let intended = if key == "deleting" { deleting } else { cancelling };
                intended.insert((queue.to_owned(), id.to_owned()));
            }
            "SET" if prefix.starts_with("unique") => self.open(&queue, command),
            "DEL" | "UNLINK" if prefix.starts_with("unique") => {
                self.close(&queue);
            }
            "SADD" => self.done.extend(command[2..].iter().map(|payload| text(payload))),
            "XCLAIM" => self.claim(key, command),
            "XACK" => {
                for id in &command[3..] {
                    if let Some(copy) = self.copies.get_mut(&(key.clone(), text(id))) {
                        copy.lease = None;
                    }
                }
            }
            _ => {}
        }
        if !self.in_transaction {
            self.check(command);
        }
    }

    #[track_caller]
    fn added(&mut self, key: &str, command: &Command) {
        let (prefix, queue) = parts(key);
        let payload = base(after(command, "payload").expect("a payload")).to_owned();
        let id = command[2..].iter().map(|arg| text(arg)).find(|arg| arg.contains('-'));
        let id = id.expect("an id");
        let original = after(command, "original_id").unwrap_or(&id).to_owned();
        let place = if prefix == "dead" { Place::Dead } else { Place::Ready };
        self.expired += usize::from(after(command, "reason") == Some("expired"));
        let task = (queue.to_owned(), original);
        let name = (key.to_owned(), id.clone());
        self.add(name, Copy { payload, task, id, place, lease: None });
    }

    /// `taskmoved:` or `taskmarks:` changes.
    fn follow(&mut self, is_moved: bool, queue: &str, command: &Command) {
        let fields = if is_moved { &mut self.moved } else { &mut self.marks };
        let name = |field: &[u8]| (queue.to_owned(), text(field));
        if command.name() == "HSET" {
            for pair in command[2..].chunks_exact(2) {
                fields.insert(name(&pair[0]), text(&pair[1]));
                self.transaction.tasks.insert(name(&pair[0]));
            }
        } else {
            for field in &command[2..] {
                fields.remove(&name(field));
                self.transaction.tasks.insert(name(field));
            }
        }
    }

    /// The queue and the UNIQUE id of a window's key, without its prefix.
    fn window(key: &str) -> (Name, Mode) {
        let (queue, unique) = key.rsplit_once(':').expect("a UNIQUE id");
        let (unique, mode) = unique_of(&format!("{unique}-"))
            .map(|(_, mode)| (unique, mode))
            .unwrap_or_else(|| panic!("an unknown window: {key}"));
        ((queue.to_owned(), unique.to_owned()), mode)
    }

    /// A window begins, or goes over to another task.
    #[track_caller]
    fn open(&mut self, key: &str, command: &Command) {
        let (name, mode) = Self::window(key);
        let end: i64 = after(command, "PXAT").expect("an end").parse().expect("a time");
        let task = word(command, 2).to_owned();
        let before = self.windows.insert(name.clone(), (task.clone(), end));
        let Some((holder, until)) = before else { return };
        let has_ended = until <= end - mode.window;
        // A task is held from now on, or was and is cancelled.
        let follows = |first: &str, second: &str| {
            let first = (name.0.clone(), first.to_owned());
            self.marks.get(&first).is_some_and(|mark| mark.split(' ').nth(1) == Some(second))
        };
        // There is nothing to replace.
        let is_over =
            |task: &Task| task.copies.iter().all(|copy| self.copies[copy].place == Place::Dead);
        let is_free = self.tasks.get(&(name.0.clone(), holder.clone())).is_none_or(is_over);
        let moves = is_free || follows(&holder, &task) || follows(&task, &holder);
        assert!(
            has_ended || (mode.is_last() && moves),
            "{name:?} is that of {holder} until {until}: {command}"
        );
        self.transaction.tasks.extend([(name.0.clone(), holder), (name.0, task)]);
    }

    /// A window ends.
    fn close(&mut self, key: &str) {
        let (name, _) = Self::window(key);
        if let Some((holder, _)) = self.windows.remove(&name) {
            self.transaction.tasks.insert((name.0, holder));
        }
    }

    /// A lease begins, is renewed or ends early.
    #[track_caller]
    fn claim(&mut self, key: String, command: &Command) {
        let (consumer, id) = (word(command, 3).to_owned(), word(command, 5).to_owned());
        let since: i64 = after(command, "TIME").expect("a time").parse().expect("a time");
        self.leases += 1;
        let copy = self.copies.get_mut(&(key, id));
        let copy = copy.unwrap_or_else(|| panic!("a lease of nothing: {command}"));
        if let Some((holder, before)) = &copy.lease {
            let has_ended = before + TASK_LEASE <= since;
            assert!(
                *holder == consumer || has_ended,
                "{holder} holds it since {before}: {command}"
            );
        }
        copy.lease = Some((consumer, since));
        let task = self.tasks.get_mut(&copy.task).expect("a known task");
        task.was_delivered = true;
        self.transaction.tasks.insert(copy.task.clone());
    }

    /// Checks what has changed in the transaction that ends with a command.
    #[track_caller]
    fn check(&mut self, command: &Command) {
        let changed = std::mem::take(&mut self.transaction);
        let tasks = &changed.tasks;
        for payload in &changed.payloads {
            self.check_payload(payload, &changed, command);
        }
        for name in tasks.intersection(&changed.deleting) {
            let task = self.tasks.get_mut(name).expect("a known task");
            task.was_deleted = task.copies.is_empty();
        }
        for name in tasks {
            self.list(name);
        }
        for name in tasks {
            self.check_task(name, command);
        }
    }

    /// Checks what has become of a payload.
    #[track_caller]
    fn check_payload(&mut self, payload: &str, changed: &Transaction, command: &Command) {
        let found = &self.payloads[payload];
        if found.copies > 0 {
            return;
        }
        let takes_its_place = |name: &Name| {
            let unique = unique_of(payload);
            unique.is_some_and(|(_, mode)| mode.is_last()) && self.copies[name].payload != payload
        };
        let end = if self.tasks[&found.task].copies.iter().any(takes_its_place) {
            assert!(!found.was_leased, "{payload} is replaced while it is leased: {command}");
            End::Replaced
        } else if self.done.contains(payload) {
            End::Done
        } else if changed.cancelling.contains(&found.task) {
            End::Cancelled
        } else if changed.deleting.contains(&found.task) {
            End::Deleted
        } else {
            panic!("{payload} of {:?} disappears before it is done: {command}", found.task);
        };
        self.payloads.get_mut(payload).expect("a known payload").end = Some(end);
    }

    /// Lists a task by its UNIQUE id, or by the task before it.
    fn list(&mut self, name: &Name) {
        let Some(task) = self.tasks.get(name) else { return };
        let place = task.copies.first().map(|copy| self.copies[copy].place.clone());
        let (queue, original) = name;
        if let Some((unique, _)) = &task.unique {
            let live = self.live.entry((queue.clone(), unique.clone())).or_default();
            if matches!(place, Some(Place::Ready | Place::Delayed)) && !task.has_died {
                live.insert(original.clone());
            } else {
                live.remove(original);
            }
        }
        self.held.retain(|_, held| held != original);
        if let Some(Place::Held(before)) = place {
            let before = (queue.clone(), before);
            let other = self.held.insert(before.clone(), original.clone());
            assert!(other.is_none(), "two tasks are held until {before:?} ends");
        }
    }

    #[track_caller]
    fn check_task(&self, name: &Name, command: &Command) {
        let queue = &name.0;
        let Some(task) = self.tasks.get(name) else {
            panic!("{name:?} is unknown: {command}");
        };
        if task.was_deleted {
            assert!(task.copies.is_empty(), "{name:?} comes back: {command}");
            return;
        }
        assert!(task.copies.len() <= 1, "copies of {name:?}, {:?}: {command}", task.copies);
        let copy = task.copies.first().map(|copy| &self.copies[copy]);
        let copy = copy.filter(|copy| copy.place != Place::Dead);
        let present = copy.map(|copy| &copy.id).filter(|id| **id != name.1);
        assert_eq!(self.moved.get(name), present, "the present id of {name:?}: {command}");
        let is_live = copy.is_some_and(|copy| !matches!(copy.place, Place::Held(_)));
        if let Some(held) = self.held.get(name) {
            assert!(is_live, "{held} is held, though {name:?} has ended: {command}");
        }
        if let Some(Place::Held(before)) = copy.map(|copy| &copy.place) {
            let before = (queue.clone(), before.clone());
            let before = self.tasks.get(&before);
            let was_deleted = before.is_some_and(|before| before.was_deleted);
            let copy = before.and_then(|task| task.copies.first());
            let place = copy.map(|copy| &self.copies[copy].place);
            let lives = matches!(place, Some(Place::Ready | Place::Delayed));
            let before = &before.map(|task| &task.copies);
            assert!(
                lives || was_deleted,
                "{name:?} is held, though {before:?} has ended: {command}"
            );
        }
        let has_mark = self.marks.contains_key(name);
        let Some((unique, mode)) = &task.unique else {
            assert!(!has_mark, "{name:?} has a mark: {command}");
            return;
        };
        // The window, and with it the mark, of UNTIL START ends with the first delivery.
        let lasts =
            copy.is_some() && !task.has_died && !(mode.is_until_start() && task.was_delivered);
        if mode.window < LONG {
            assert!(!has_mark || copy.is_some(), "{name:?} has a mark: {command}");
            return;
        }
        assert_eq!(has_mark, lasts, "a mark of {name:?}: {command}");
        let window = (queue.clone(), unique.clone());
        let holder = self.windows.get(&window).map(|(holder, _)| holder);
        let last = self.held.get(name).unwrap_or(&name.1);
        assert_eq!(holder == Some(last), lasts, "{window:?} is that of {holder:?}: {command}");
        let together = self.live.get(&window).into_iter().flatten();
        let together: Vec<&String> = together
            .filter(|original| {
                let task = &self.tasks[&(queue.clone(), (*original).clone())];
                !(mode.is_until_start() && task.was_delivered)
            })
            .collect();
        assert!(together.len() <= 1, "{together:?} of {window:?} live together: {command}");
    }
}
