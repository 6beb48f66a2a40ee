//! The connections: each thread opens one after the other, or a crowd of them, until the round
//! ends.
//!
//! The commands of a session follow from its own dice; how long it waits for a reply, and what it
//! does then, is drawn before. So a session that ends early changes no other.

use super::dice::Dice;
use super::grammar::{Command, Grammar, plain};
use super::words::Bytes;
use super::world::{Journal, World, is_own, spell, spell_reply};
use crate::support::{Client, Silence, Value, encode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a reply may take that does not have to wait.
const SOON: Duration = Duration::from_secs(40);

/// A short pause.
const A_MOMENT: Duration = Duration::from_millis(20);

/// The connection is closed or abandoned.
struct Gone;

/// What to do about a reply that does not come.
#[derive(Clone, Copy, Debug)]
enum Late {
    /// `CLIENT UNBLOCK`
    Unblock(&'static str),
    /// Close the connection.
    Vanish,
    /// Send more commands, then close the connection.
    SendMore(u64),
}

/// How long to wait for a reply, and what to do then.
#[derive(Clone, Copy)]
struct Plan {
    timeout: Duration,
    late: Late,
}

impl Plan {
    fn draw(dice: &mut Dice) -> Self {
        let timeout = Duration::from_millis(dice.within(1, 250));
        let late = [
            Late::Unblock("TIMEOUT"),
            Late::Unblock("TIMEOUT"),
            Late::Unblock("ERROR"),
            Late::Vanish,
            Late::SendMore(dice.within(0, u64::MAX - 1)),
        ][dice.below(5)];
        Self { timeout, late }
    }
}

/// One thread of a round.
pub struct Actor<'a> {
    world: &'a World,
    grammar: &'a Grammar,
    seed: u64,
    sessions: u64,
    /// How often [`Actor::ask`] has asked.
    asked: u64,
    /// The dice of the present session.
    dice: Dice,
    journal: Arc<Journal>,
}

/// A connection.
struct Link {
    client: Client,
    id: i64,
    /// The version of the protocol, if it is known.
    resp: Option<u8>,
}

impl<'a> Actor<'a> {
    /// The actor with this number.
    pub fn new(world: &'a World, grammar: &'a Grammar, seed: u64, number: u64) -> Self {
        let journal = world.journal(format!("thread {number}"));
        let dice = Dice::new(seed, number);
        let seed = dice.clone().within(0, u64::MAX - 1);
        Self { world, grammar, seed, sessions: 0, asked: 0, dice, journal }
    }

    /// Runs sessions until the round ends.
    pub fn act(&mut self) {
        while !self.world.is_over() {
            self.sessions += 1;
            self.dice = Dice::new(self.seed, self.sessions);
            let session = catch_unwind(AssertUnwindSafe(|| self.session()));
            if let Err(panic) = session {
                let text = panic.downcast_ref::<String>().cloned();
                self.world.fail(text.unwrap_or_else(|| "a connection's thread panicked".into()));
            }
        }
    }

    fn session(&mut self) {
        // A closed connection is no failure: others may have killed it.
        let _ = match self.dice.below(10) {
            0..=5 => self.counted_session(),
            6..=7 => self.loose_session(),
            _ => self.crowd(),
        };
    }

    fn connect(&mut self) -> Result<Link, Gone> {
        let end = Instant::now() + SOON;
        loop {
            match Client::try_connect(self.world.master.port()) {
                Ok(client) => {
                    self.journal.note("connects");
                    let mut link = Link { client, id: 0, resp: Some(2) };
                    let id = self.ask_plainly(&mut link, &plain("CLIENT ID"))?;
                    let Value::Int(id) = id else { return Err(Gone) };
                    self.journal.note(&format!("is client {id}"));
                    link.id = id;
                    self.world.learned.connected(id);
                    return Ok(link);
                }
                Err(error) if Instant::now() > end => {
                    self.world.fail(format!("the server accepts no connection: {error}"));
                    return Err(Gone);
                }
                Err(_) if self.world.failure().is_some() => return Err(Gone),
                Err(_) => thread::sleep(A_MOMENT),
            }
        }
    }

    /// A connection on which every command has exactly one reply.
    fn counted_session(&mut self) -> Result<(), Gone> {
        let flavor = self.dice.below(12);
        let db = self.dice.below(8);
        let steps = self.dice.within(3, 60);
        let mut link = self.connect()?;
        if flavor < 6 {
            self.ask_plainly(&mut link, &plain("HELLO 3"))?;
            link.resp = Some(3);
        }
        if db < 2 {
            self.ask_plainly(&mut link, &plain(&format!("SELECT {}", db + 1)))?;
        }
        match flavor {
            // Messages, and with MONITOR the commands of others, come between the replies.
            0 => self.subscribe(&mut link, "SUBSCRIBE ch")?,
            // The connection also gets its own events.
            1 if !self.world.quirks.pushes_inside => self.subscribe(&mut link, "PSUBSCRIBE *")?,
            2 | 11 => drop(self.ask_plainly(&mut link, &plain("MONITOR"))?),
            3 => drop(self.ask_plainly(&mut link, &plain("CLIENT TRACKING ON BCAST"))?),
            4 => drop(self.ask_plainly(&mut link, &plain("CLIENT TRACKING ON"))?),
            _ => {}
        }
        for _ in 0..steps {
            let mut commands = self.step();
            // MONITOR shows the commands of a transaction in the middle of its reply.
            let monitors = matches!(flavor, 2 | 11);
            if monitors || flavor < 2 && self.world.quirks.pushes_inside {
                commands.retain(|command| !["MULTI", "EXEC"].contains(&&*spell(command)));
            }
            if link.resp == Some(3) && self.world.quirks.splits_pushes {
                commands.iter_mut().flatten().for_each(|argument| argument.truncate(10_000));
            }
            let plan = Plan::draw(&mut self.dice);
            self.ask(&mut link, &commands, plan)?;
            if self.world.is_over() {
                break;
            }
        }
        match self.dice.below(3) {
            0 => Ok(()),
            1 => self.resynchronize(&mut link),
            _ => self.send_one(&mut link, &plain("QUIT")),
        }
    }

    /// Subscribes. The reply is a push, unless it is an error; the reply of `HELLO 3` is always a
    /// map.
    fn subscribe(&mut self, link: &mut Link, command: &str) -> Result<(), Gone> {
        self.send_one(link, &plain(command))?;
        let mut reply = self.ask_plainly(link, &plain("HELLO 3"))?;
        while !matches!(reply, Value::Map(_)) {
            reply = self.read(link, Instant::now() + SOON)?.ok_or(Gone)?;
        }
        Ok(())
    }

    /// The commands of one write.
    fn step(&mut self) -> Vec<Command> {
        let (dice, learned) = (&mut self.dice, &self.world.learned);
        match dice.below(20) {
            0..=1 => self.grammar.transaction(dice, learned),
            2..=3 => vec![self.grammar.script(dice, learned)],
            4..=5 => {
                let count = dice.within(2, 20);
                (0..count).map(|_| self.grammar.command(dice, learned)).collect()
            }
            _ => vec![self.grammar.command(dice, learned)],
        }
    }

    /// A connection with any commands, whose replies are not counted. It must still reply in the
    /// end.
    fn loose_session(&mut self) -> Result<(), Gone> {
        let mut link = self.connect()?;
        link.resp = None;
        for _ in 0..self.dice.within(1, 12) {
            let mut commands = Vec::new();
            for _ in 0..self.dice.within(1, 12) {
                let (dice, learned) = (&mut self.dice, &self.world.learned);
                if dice.percent(25) {
                    commands.push(self.grammar.mode(dice, learned));
                } else if dice.percent(10) {
                    commands.push(self.grammar.script(dice, learned));
                } else {
                    commands.push(self.grammar.command(dice, learned));
                }
            }
            self.send(&mut link, &commands)?;
            let pause = Duration::from_millis(self.dice.within(0, 30));
            let end = Instant::now() + pause;
            while let Some(reply) = self.read(&mut link, end)? {
                self.journal.note(&format!("  < {}", spell_reply(&reply)));
            }
            if self.world.is_over() {
                break;
            }
        }
        if self.dice.percent(70) { self.resynchronize(&mut link) } else { Ok(()) }
    }

    /// Many connections that wait at the same time and leave in different ways.
    fn crowd(&mut self) -> Result<(), Gone> {
        let count = self.dice.within(2, 30);
        let same = self.dice.percent(60);
        let stay = Duration::from_millis([20, 50, 150, 1_500][self.dice.below(4)]);
        let first = self.waiting_command();
        let mut links = Vec::new();
        for _ in 0..count {
            let another = self.waiting_command();
            let command = if same { first.clone() } else { another };
            let leaves = self.dice.below(4);
            let resp3 = self.dice.percent(50);
            let mut link = self.connect()?;
            if resp3 {
                self.ask_plainly(&mut link, &plain("HELLO 3"))?;
                link.resp = Some(3);
            }
            self.send_one(&mut link, &command)?;
            links.push((link, command, leaves));
        }
        let end = Instant::now() + stay;
        while Instant::now() < end && !self.world.is_over() {
            thread::sleep(A_MOMENT);
        }
        self.world.wait_for_count();
        for (mut link, command, leaves) in links {
            let plan = match leaves {
                0 => continue,
                1 => Plan { timeout: Duration::from_millis(1), late: Late::Vanish },
                2 => Plan { timeout: Duration::from_millis(5), late: Late::Unblock("ERROR") },
                _ => Plan { timeout: Duration::from_millis(50), late: Late::Unblock("TIMEOUT") },
            };
            // It may have been killed.
            let _ = self.check_reply(&mut link, &command, plan);
        }
        Ok(())
    }

    /// A command that may wait.
    fn waiting_command(&mut self) -> Command {
        loop {
            let command = self.grammar.own(&mut self.dice, &self.world.learned);
            let positional = command[0] == b"TASK.CONSUME" && command.len() > 5;
            if positional || command.iter().any(|word| word == b"BLOCK") {
                return command;
            }
        }
    }

    fn send(&mut self, link: &mut Link, commands: &[Command]) -> Result<(), Gone> {
        let mut request = Vec::new();
        for command in commands {
            self.journal.note(&format!("{} > {}", link.id, spell(command)));
            encode(&mut request, command);
        }
        link.client.try_send_raw(&request).map_err(|_| Gone)
    }

    fn send_one(&mut self, link: &mut Link, command: &Command) -> Result<(), Gone> {
        self.send(link, std::slice::from_ref(command))
    }

    /// The next reply, if one comes in time, without pushes and lines of MONITOR.
    fn read(&mut self, link: &mut Link, end: Instant) -> Result<Option<Value>, Gone> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match link.client.try_read(left) {
                Ok(Value::Push(_)) => {}
                // A line of MONITOR begins with the time; no simple string does.
                Ok(Value::Simple(line)) if line.first().is_some_and(u8::is_ascii_digit) => {}
                Ok(value) => return Ok(Some(value)),
                Err(Silence::TimedOut) => return Ok(None),
                Err(Silence::Closed) => {
                    self.journal.note(&format!("{} is closed", link.id));
                    return Err(Gone);
                }
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Runs a command that does not wait.
    fn ask_plainly(&mut self, link: &mut Link, command: &Command) -> Result<Value, Gone> {
        self.send_one(link, command)?;
        match self.read(link, Instant::now() + SOON)? {
            Some(reply) => Ok(reply),
            None => {
                self.world.fail(format!("client {}: no reply to {}", link.id, spell(command)));
                Err(Gone)
            }
        }
    }

    /// Sends several commands in one write and checks that there is exactly one reply for each.
    fn ask(&mut self, link: &mut Link, commands: &[Command], plan: Plan) -> Result<(), Gone> {
        self.asked += 1;
        let mark: Bytes = format!("mark {}", self.asked).into();
        let echo = vec![b"ECHO".to_vec(), mark.clone()];
        self.send(link, &[commands, std::slice::from_ref(&echo)].concat())?;
        for command in commands {
            self.check_reply(link, command, plan)?;
        }
        match self.listen(link, &echo, plan)? {
            Value::Bulk(text) if text == mark => Ok(()),
            // The server sends this to a waiting client before it closes the connection; some also
            // to one that was answered in the same moment.
            other if other.is_error_with("UNBLOCKED force unblock") => Err(Gone),
            other => {
                let (id, other) = (link.id, spell_reply(&other));
                self.world.fail(format!("client {id}: one reply too many or too few: {other}"));
                Err(Gone)
            }
        }
    }

    /// Waits for the reply to a command, and checks it.
    fn check_reply(&mut self, link: &mut Link, command: &Command, plan: Plan) -> Result<(), Gone> {
        let reply = self.listen(link, command, plan)?;
        self.world.answered(command, &reply);
        if let Some(name) = command.first()
            && is_own(name)
            && let Some(resp) = link.resp
            && !fits(&reply, resp)
        {
            let what = format!("{} in RESP{resp}: {}", spell(command), spell_reply(&reply));
            self.world.fail(format!("a reply in the other protocol: {what}"));
        }
        Ok(())
    }

    /// Waits for the reply to a command.
    fn listen(&mut self, link: &mut Link, command: &Command, plan: Plan) -> Result<Value, Gone> {
        let mut reply = self.read(link, Instant::now() + plan.timeout)?;
        if reply.is_none() {
            self.world.wait_for_count();
            self.journal.note(&format!("{} waits no longer: {:?}", link.id, plan.late));
            match plan.late {
                Late::Vanish => return Err(Gone),
                Late::SendMore(seed) => {
                    let mut dice = Dice::new(seed, 0);
                    let more = |_| self.grammar.command(&mut dice, &self.world.learned);
                    let more: Vec<_> = (0..5).map(more).collect();
                    self.send(link, &more)?;
                    thread::sleep(A_MOMENT);
                    return Err(Gone);
                }
                Late::Unblock(how) => reply = Some(self.unblock(link, command, how)?),
            }
        }
        let reply = reply.expect("a reply");
        self.journal.note(&format!("{} < {}", link.id, spell_reply(&reply)));
        Ok(reply)
    }

    /// Unblocks a waiting client and returns its reply. During a pause this takes until its end.
    fn unblock(&mut self, link: &mut Link, command: &Command, how: &str) -> Result<Value, Gone> {
        let end = Instant::now() + SOON;
        while Instant::now() < end && self.world.failure().is_none() {
            self.send_unblock(link.id, how)?;
            self.nudge(link)?;
            if let Some(reply) = self.read(link, Instant::now() + Duration::from_millis(100))? {
                return Ok(reply);
            }
        }
        let command = spell(command);
        let state = self.state_of(link);
        self.world.fail(format!("no reply after CLIENT UNBLOCK: {command}\n{state}"));
        Err(Gone)
    }

    /// Sends an empty line, which has no reply: see `Quirks::forgets`.
    fn nudge(&mut self, link: &mut Link) -> Result<(), Gone> {
        if self.world.quirks.forgets {
            link.client.try_send_raw(b"\r\n").map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Unblocks a client over another connection.
    fn send_unblock(&mut self, id: i64, how: &str) -> Result<(), Gone> {
        let _gate = self.world.unblocking();
        let how = if self.world.quirks.answers_twice { "TIMEOUT" } else { how };
        let mut client = Client::try_connect(self.world.master.port()).map_err(|_| Gone)?;
        match client.ask(&format!("CLIENT UNBLOCK {id} {how}"), SOON) {
            // 0 means that the client has been answered meanwhile.
            Ok(Value::Int(1)) => self.journal.note(&format!("{id} is unblocked: {how}")),
            Ok(_) => {}
            Err(silence) => {
                self.world.fail(format!("CLIENT UNBLOCK {id} {how}: no reply, {silence:?}"));
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// The state of a connection on the server, and the bytes of an incomplete reply.
    fn state_of(&self, link: &Link) -> String {
        let list = Client::try_connect(self.world.master.port()).map(|mut client| {
            client.ask(&format!("CLIENT LIST ID {}", link.id), Duration::from_secs(5))
        });
        format!("client {}: {list:?}\nunread: {}", link.id, link.client.unread())
    }

    /// Resets the connection and checks that it replies again.
    ///
    /// It asks many times: after `CLIENT REPLY OFF` inside a transaction the server announces more
    /// replies than it sends, and the next replies are taken for those.
    fn resynchronize(&mut self, link: &mut Link) -> Result<(), Gone> {
        let mark: Bytes = format!("mark {}", link.id).into();
        self.send(link, &[plain("RESET")])?;
        let mut request = Vec::new();
        (0..20).for_each(|_| encode(&mut request, &[b"ECHO".to_vec(), mark.clone()]));
        let end = Instant::now() + SOON;
        while self.world.failure().is_none() {
            link.client.try_send_raw(&request).map_err(|_| Gone)?;
            let soon = Instant::now() + Duration::from_millis(50);
            while let Some(reply) = self.read(link, soon)? {
                if has(&reply, &mark) {
                    return Ok(());
                }
            }
            self.world.wait_for_count();
            if Instant::now() > end {
                let state = self.state_of(link);
                if !is_closing(&state) {
                    self.world.fail(format!("no reply after RESET\n{state}"));
                }
                break;
            }
            self.send_unblock(link.id, "TIMEOUT")?;
        }
        Err(Gone)
    }
}

/// Whether the server reads no more from a connection, because it closes it after its last reply.
///
/// A server that becomes a replica marks every blocked client in this way. After `CLIENT REPLY OFF`
/// there is no last reply, and the server never closes the connection (the same after `BLPOP`).
fn is_closing(state: &str) -> bool {
    let flags = state.split_once("flags=").map_or("", |(_, rest)| rest);
    flags.split(' ').next().is_some_and(|flags| flags.contains('c'))
}

/// Whether a reply contains these bytes.
fn has(reply: &Value, mark: &Bytes) -> bool {
    match reply {
        Value::Bulk(text) => text == mark,
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().any(|item| has(item, mark))
        }
        Value::Map(pairs) => pairs.iter().any(|(key, value)| has(key, mark) || has(value, mark)),
        _ => false,
    }
}

/// Whether a reply has only types of its protocol.
fn fits(reply: &Value, resp: u8) -> bool {
    match reply {
        Value::NilBulk | Value::NilArray => resp == 2,
        Value::Null
        | Value::Bool(_)
        | Value::Double(_)
        | Value::BigNumber(_)
        | Value::BulkError(_)
        | Value::Verbatim(..)
        | Value::Set(_)
        | Value::Push(_)
        | Value::Attribute(..) => resp == 3,
        Value::Map(pairs) => {
            resp == 3 && pairs.iter().all(|(key, value)| fits(key, resp) && fits(value, resp))
        }
        Value::Array(items) => items.iter().all(|item| fits(item, resp)),
        Value::Simple(_) | Value::Error(_) | Value::Int(_) | Value::Bulk(_) => true,
    }
}
