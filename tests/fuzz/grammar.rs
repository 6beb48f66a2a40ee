//! The commands of the connections, in the notation of the reference.
//!
//! `$name` is a variable (see `words`), `[…]` is optional, `(…|…)` is one of several, `…*` comes
//! one to three times. The number is the weight of a line. Some commands are damaged afterwards: an
//! argument is replaced by a hostile one, left out, doubled or moved.

use super::dice::Dice;
use super::words::{Bytes, Learned, Words};

/// A command: its name and arguments.
pub type Command = Vec<Bytes>;

type Line = (u32, &'static str);

/// Delivers the consumer its pending entries again, which no server replicates.
pub const HISTORY: &str = "STREAMS $stream $id";

/// The commands of the module, each of them with every option.
const OWN: &[Line] = &[
    (12, "CACHE.FETCH $cache $lease [STALE $ms] [TIED] [BLOCK $block [FRESH]]"),
    (1, "CACHE.FETCH $cache $lease [FRESH] [BLOCK $block] [STALE $ms]"),
    (7, "CACHE.SET $cache $value $ms [TOKEN $token] [NX] [JITTER $pct]"),
    (2, "CACHE.GET $cache"),
    (1, "CACHE.MGET $cache* $key"),
    (2, "CACHE.LOCK $cache $ms $lease"),
    (2, "CACHE.EXTEND $cache $token $lease"),
    (3, "CACHE.FAIL $cache $token [BACKOFF $ms] [REASON $value]"),
    (3, "CACHE.INVALIDATE $cache [STALE $ms]"),
    (1, "CACHE.INFO $cache"),
    (
        8,
        "TASK.PUBLISH $queue $value [$tries] [(DELAY $span|AT $point)] [PRIORITY $prio] [UNIQUE $uniq $ms]",
    ),
    (
        6,
        "TASK.PUBLISH $queue $value [DELAY $span] [PRIORITY $prio] [UNIQUE $uniq $ms] [EXPIRE $ms] [TRIES $tries] [(FIELDS 1 $field $value|FIELDS 2 a $value $field $value)] [META]",
    ),
    (4, "TASK.PUBLISH $queue $value"),
    (
        5,
        "TASK.PUBLISH $queue $value [(DELAY $span|AT $point)] [PRIORITY $prio] UNIQUE $uniq $ms [UNTIL (START|DONE)] [LAST] [META]",
    ),
    (5, "TASK.CONSUME $group $consumer $queue $count $block [META] [TIED]"),
    (6, "TASK.CONSUME $group $consumer $queue [META] [TIED] [COUNT $count] [BLOCK $block]"),
    (1, "TASK.CONSUME $group $consumer $queue [$count]"),
    (
        5,
        "TASK.CONSUME $group $consumer $queue [COUNT $count] (THEN 1 $queue|THEN 2 $queue $queue) [BLOCK $block]",
    ),
    (1, "TASK.CONSUME $group $consumer $queue THEN $n $queue* [META]"),
    (4, "TASK.ACK $queue $group $id*"),
    (3, "TASK.EXTEND $queue $group $consumer $id*"),
    (
        5,
        "TASK.NACK $queue $group $consumer (SILENT|FAIL|FAIL|FATAL) $id [DELAY $span] [REASON $value] [PAYLOAD $value]",
    ),
    (2, "TASK.RETRY $queue $id $value $tries $queue $dead $tries [$group]"),
    (2, "TASK.CANCEL $queue $id* [FORCE]"),
    (3, "TASK.RESCHEDULE $queue $id [(DELAY $span|AT $point)] [PRIORITY $prio]"),
    (2, "TASK.STATE $queue $id [GROUP $group]"),
    (2, "TASK.REDRIVE $dead $queue [COUNT $count]"),
    (2, "TASK.REDRIVE $dead $queue ID $id*"),
    (1, "TASK.REDRIVE $stream $stream"),
    (
        3,
        "TASK.POLICY $queue [LEASE $span] [TRIES $tries] [BACKOFF $span $span] [LIMIT $n] [KEEP $bit] [PAUSED $bit]",
    ),
    (2, "TASK.POLICY $queue PAUSED 0"),
    (1, "TASK.INFO $queue"),
    (8, "LOCK.ACQUIRE $lock $ident $lease [(SHARED|LIMIT $count)] [TIED] [BLOCK $block]"),
    (4, "LOCK.ACQUIRE $lock $ident $lease [BLOCK $block] [TIED] FENCE"),
    (1, "LOCK.ACQUIRE $lock $ident $lease"),
    (3, "LOCK.EXTEND $lock $ident $lease [(SHARED|EXCLUSIVE)]"),
    (6, "LOCK.RELEASE $lock $ident"),
    (1, "LOCK.INFO $lock"),
];

/// Commands of the server, on the same keys.
const FOREIGN: &[Line] = &[
    (6, "SET $str $value [(NX|XX)] [GET] [(PX $ms|EX $seconds|PXAT $point|KEEPTTL)]"),
    (2, "SET $key $value [PX $ms]"),
    (2, "SET $lockkey $ident NX PX $ms"),
    (3, "(GET|GETDEL|STRLEN|TYPE|TTL|PEXPIRETIME|OBJECT ENCODING|MEMORY USAGE|TOUCH|EXISTS) $key"),
    (1, "GETEX $key [(PERSIST|PX $ms|PXAT $point)]"),
    (1, "(APPEND|GETSET|SETNX) $str $value"),
    (1, "(INCR|DECR) $str"),
    (1, "(INCRBY|SETBIT) $str $n 1"),
    (1, "SETRANGE $str $n $value"),
    (1, "MSET $key $value $str $record"),
    (1, "MSETNX $key $value"),
    (6, "(DEL|UNLINK) $key [$key]"),
    (4, "(PEXPIRE|PEXPIREAT) $key ($ms|$point) [(NX|XX|GT|LT)]"),
    (2, "EXPIRE $key $seconds"),
    (2, "PERSIST $key"),
    (3, "RENAME $key $key"),
    (1, "RENAMENX $key $key"),
    (2, "COPY $key $key [REPLACE]"),
    (1, "DUMP $key"),
    (1, "RESTORE $key $span $dump [REPLACE]"),
    (1, "RESTORE $key $point $dump REPLACE ABSTTL"),
    (1, "MOVE $key $db"),
    (1, "COPY $key $key DB $db [REPLACE]"),
    (1, "SORT $key BY nosort ALPHA STORE $key"),
    (
        4,
        "XADD $stream * payload $value [timestamp 1] [retry_count $tries] [tries $tries] [expire_unix_ms $point] [group $group] [original_id $id]",
    ),
    (1, "XADD $stream [NOMKSTREAM] [MAXLEN $n] ($id|*) $value $value"),
    (1, "XADD $key * payload $value"),
    (2, "XDEL $stream $id*"),
    (2, "XTRIM $stream MAXLEN [(=|~)] $n"),
    (1, "XTRIM $stream MINID $id"),
    (2, "XACK $stream $group $id*"),
    (
        3,
        "XCLAIM $stream $group $consumer $span $id* [(IDLE $ms|TIME $point)] [RETRYCOUNT $tries] [FORCE] [JUSTID] [LASTID $id]",
    ),
    (2, "XAUTOCLAIM $stream $group $consumer $span $id [COUNT $count] [JUSTID]"),
    (
        4,
        "XREADGROUP GROUP $group $consumer [COUNT $count] [BLOCK $block] [NOACK] STREAMS $stream >",
    ),
    (1, "XREADGROUP GROUP $group $consumer [COUNT $count] STREAMS $stream $id"),
    (1, "XREAD [COUNT $count] [BLOCK $block] STREAMS $stream ($|$id)"),
    (2, "XGROUP CREATE $stream $group ($id|$) [MKSTREAM]"),
    (2, "XGROUP DESTROY $stream $group"),
    (1, "XGROUP SETID $stream $group ($id|$)"),
    (1, "XGROUP CREATECONSUMER $stream $group $consumer"),
    (1, "XGROUP DELCONSUMER $stream $group $consumer"),
    (1, "XPENDING $stream $group [IDLE $span - + 10]"),
    (1, "XINFO STREAM $stream [FULL]"),
    (1, "XINFO (GROUPS $stream|CONSUMERS $stream $group)"),
    (1, "XSETID $stream $id"),
    (1, "XRANGE $stream - + [COUNT $count]"),
    (2, "ZADD $delayed $score $member"),
    (2, "ZADD $lockkey $score $ident"),
    (1, "ZADD $key $score $value"),
    (1, "(ZREM|ZSCORE) $delayed $member"),
    (1, "(ZREM|ZSCORE) $lockkey $ident"),
    (1, "(ZPOPMIN|ZPOPMAX) $delayed [$n]"),
    (1, "ZINCRBY $delayed $score $member"),
    (1, "(ZREMRANGEBYSCORE|ZREMRANGEBYRANK) $delayed $index $index"),
    (1, "ZRANGESTORE $key $key 0 -1"),
    (1, "(BZPOPMIN|BLPOP) $key 0.01"),
    (
        3,
        "HSET $policy (lease_ms $span|tries $tries|paused $bit|keep $bit|limit $n|backoff_base_ms $span|backoff_max_ms $span|x $value)",
    ),
    (1, "HDEL $policy (lease_ms|tries|paused|keep|limit)"),
    (1, "HINCRBY $policy (lease_ms|tries|paused|limit) $n"),
    (1, "HSET $moved ($id|$value) ($id|$value)"),
    (1, "HDEL $moved $id"),
    (1, "HSET $key $value $value"),
    (1, "LPUSH $key $value"),
    (1, "SADD $key $value"),
    (1, "PFADD $key $value"),
    (1, "SCAN 0 COUNT 100"),
];

/// Commands that only some servers know, each with a call that those accept. `XADD probe 1-1 f v`
/// and `XGROUP CREATE probe g 0` have run before.
const NEWER: &[(&str, Line)] = &[
    (
        "XNACK probe g FAIL IDS 1 1-1",
        (5, "XNACK $stream $group (SILENT|FAIL|FATAL) IDS 1 $id [RETRYCOUNT $tries] [FORCE]"),
    ),
    ("XACKDEL probe g IDS 1 1-1", (2, "XACKDEL $stream $group [(KEEPREF|DELREF|ACKED)] IDS 1 $id")),
    ("XDELEX probe IDS 1 1-1", (2, "XDELEX $stream [(KEEPREF|DELREF|ACKED)] IDS 1 $id")),
    (
        "XADD probe IDMP p i * f v",
        (2, "XADD $stream (IDMP $uniq $ident|IDMPAUTO $uniq) * payload $value"),
    ),
    (
        "XADD probe ACKED * f v",
        (1, "XADD $stream (KEEPREF|DELREF|ACKED) MAXLEN $n * payload $value"),
    ),
    (
        "XCFGSET probe IDMP-DURATION 100",
        (1, "XCFGSET $stream [IDMP-DURATION $n] [IDMP-MAXSIZE $n]"),
    ),
    (
        "XREADGROUP GROUP g c CLAIM 0 STREAMS probe >",
        (
            3,
            "XREADGROUP GROUP $group $consumer [COUNT $count] [BLOCK $block] CLAIM $span STREAMS $stream >",
        ),
    ),
    ("DELEX probe", (2, "DELEX $str [(IFEQ|IFNE) $value]")),
    ("DELIFEQ probes v", (1, "DELIFEQ $str $value")),
    ("SET probes v IFEQ v", (2, "SET $str $value IFEQ $value [GET] [PX $ms]")),
    ("SET probes v IFNE v", (1, "SET $str $value IFNE $value [PX $ms]")),
    ("MSETEX 1 probes v", (2, "MSETEX 2 $str $value $lockkey $ident [(NX|XX)] [(PX $ms|KEEPTTL)]")),
    ("INCREX probes", (1, "INCREX $str")),
];

/// Commands about the connection or the server.
///
/// Only the operator pauses clients: during a pause expired keys are kept, and a write to one of
/// them in the same transaction aborts the server.
const CONNECTION: &[Line] = &[
    (4, "PING"),
    (3, "SELECT $db"),
    (2, "CLIENT TRACKING ON [BCAST]"),
    (1, "CLIENT TRACKING ON OPTIN"),
    (1, "CLIENT CACHING YES"),
    (2, "CLIENT TRACKING OFF"),
    (1, "CLIENT (NO-EVICT|NO-TOUCH) (ON|OFF)"),
    (1, "CLIENT (INFO|TRACKINGINFO|GETNAME|LIST)"),
    (1, "CLIENT SETNAME $uniq"),
    (2, "CLIENT UNBLOCK $client [(TIMEOUT|ERROR)]"),
    (1, "CLIENT KILL ID $client"),
    (1, "CLIENT UNPAUSE"),
    (1, "PUBLISH $channel $value"),
    (1, "WAIT $bit 5"),
    (1, "INFO (corral|everything|commandstats|clients)"),
    (
        1,
        "COMMAND (DOCS lock.acquire|GETKEYS TASK.RETRY a 1-1 p 0 b c 1|GETKEYS TASK.CONSUME g c q|GETKEYS TASK.CONSUME g c q THEN 1 r|INFO cache.fetch|COUNT)",
    ),
    (1, "CONFIG GET corral.*"),
    (1, "(SWAPDB $db $db|FLUSHDB ASYNC|FLUSHALL ASYNC|DBSIZE|DBSIZE|TIME|LASTSAVE|ROLE)"),
    (1, "SLOWLOG GET 1"),
    (1, "(WATCH|WATCH) $key [$key]"),
    (1, "(UNWATCH|DISCARD|EXEC)"),
    (1, "ACL (WHOAMI|DRYRUN default LOCK.RELEASE a b)"),
    (1, "XINFO HELP"),
];

/// Commands that change how a connection is answered, so that its replies cannot be counted.
const MODE: &[Line] = &[
    (2, "CLIENT REPLY (OFF|ON|SKIP)"),
    (1, "CLIENT REPLY SKIP"),
    (3, "HELLO (2|3|3)"),
    (2, "(SUBSCRIBE|UNSUBSCRIBE|SSUBSCRIBE) $channel"),
    (1, "(PSUBSCRIBE|PUNSUBSCRIBE) $pattern"),
    (1, "MONITOR"),
    (1, "MULTI"),
    (1, "(EXEC|DISCARD)"),
    (1, "RESET"),
    (1, "CLIENT TRACKING ON BCAST PREFIX q"),
];

/// Commands of the operator.
const OPERATOR: &[Line] = &[
    (4, "CLIENT UNBLOCK $client [(TIMEOUT|ERROR)]"),
    (4, "CLIENT UNBLOCK $client"),
    (4, "CLIENT KILL ID $client"),
    (2, "SWAPDB $db $db"),
    (1, "FLUSHDB [(SYNC|ASYNC)]"),
    (1, "FLUSHALL [(SYNC|ASYNC)]"),
    (1, "CLIENT KILL TYPE (replica|pubsub)"),
    (1, "(BGREWRITEAOF|BGSAVE)"),
    (1, "DEBUG SLEEP (0.01|0.05)"),
    (1, "SCRIPT FLUSH"),
    (1, "FUNCTION FLUSH"),
    (1, "MEMORY PURGE"),
    (1, "CONFIG RESETSTAT"),
    (1, "CONFIG SET corral.wake-bytes (1|100|8388608|0|-1|x)"),
    (1, "CONFIG SET corral.fence-ttl-ms (1|1000|86400000|0)"),
    (1, "CONFIG SET corral.task-tries (0|1|20)"),
    (2, "CONFIG SET corral.task-lease-ms (0|1|20|200|300000)"),
    (1, "CONFIG SET notify-keyspace-events (KEA|AK|$)"),
    (1, "CONFIG SET hz (1|10|500)"),
    (1, "CONFIG SET stream-node-max-entries (1|100)"),
    (
        1,
        "CONFIG SET (lazyfree-lazy-user-del|lazyfree-lazy-server-del|lazyfree-lazy-expire|lazyfree-lazy-user-flush) (yes|no)",
    ),
    (3, "PING"),
];

/// Ends a pause.
pub const UNPAUSE: &str = "CLIENT UNPAUSE";

/// Commands of the operator, with the command that ends them after a while.
const LASTING: &[(u32, (&str, &str))] = &[
    (3, ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0")),
    (
        1,
        (
            "CONFIG SET maxmemory 1 maxmemory-policy allkeys-random",
            "CONFIG SET maxmemory 0 maxmemory-policy noeviction",
        ),
    ),
    (
        1,
        (
            "CONFIG SET maxmemory 1 maxmemory-policy volatile-ttl",
            "CONFIG SET maxmemory 0 maxmemory-policy noeviction",
        ),
    ),
    (2, ("CONFIG SET min-replicas-to-write 9", "CONFIG SET min-replicas-to-write 0")),
    (1, ("DEBUG SET-ACTIVE-EXPIRE 0", "DEBUG SET-ACTIVE-EXPIRE 1")),
    (1, ("CLIENT PAUSE 20 WRITE", UNPAUSE)),
    (2, ("CLIENT PAUSE 200 WRITE", UNPAUSE)),
    (1, ("CLIENT PAUSE 20 ALL", UNPAUSE)),
    (1, ("CLIENT PAUSE 100", UNPAUSE)),
    (1, ("CONFIG SET lua-time-limit 0", "CONFIG SET lua-time-limit 5000")),
];

/// Only in rounds without an exact comparison: see `checks`.
const RELOADS: &[Line] = &[(3, "DEBUG RELOAD"), (1, "DEBUG LOADAOF")];

/// The name of the function in the library.
pub const FUNCTION: &str = "fuzz_run";

/// A script that runs the commands in its arguments: a number of words, the words, and so on.
const BODY: &str = "
  local replies, at = {}, 1
  if #args % 3 == 0 then redis.setresp(3) end
  while at <= #args do
    local count = tonumber(args[at])
    replies[#replies + 1] = redis.pcall(unpack(args, at + 1, at + count))
    at = at + count + 1
  end
  return replies";

/// A script as EVAL takes it.
fn script() -> String {
    format!("local args = ARGV {BODY}")
}

/// The library with the script as a function.
pub fn library() -> Command {
    let code = format!(
        "#!lua name=fuzz\nredis.register_function('{FUNCTION}', function(keys, args) {BODY} end)"
    );
    vec!["FUNCTION".into(), "LOAD".into(), "REPLACE".into(), code.into()]
}

/// A part of a line.
enum Part {
    Word(Bytes),
    Variable(String),
    Optional(Vec<Part>),
    OneOf(Vec<Vec<Part>>),
    Repeated(Box<Part>),
}

/// Reads a line. Spaces, brackets and bars end a word.
fn parse(line: &str) -> Vec<Part> {
    let mut rest = line;
    let parts = parse_list(&mut rest);
    assert!(rest.is_empty(), "left of {line:?}: {rest:?}");
    parts
}

fn parse_list(rest: &mut &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    loop {
        *rest = rest.trim_start_matches(' ');
        let Some(first) = rest.chars().next() else { return parts };
        match first {
            ']' | ')' | '|' => return parts,
            '[' => {
                *rest = &rest[1..];
                parts.push(Part::Optional(parse_list(rest)));
                *rest = rest.strip_prefix(']').expect("a closed bracket");
            }
            '(' => {
                *rest = &rest[1..];
                let mut choices = vec![parse_list(rest)];
                while let Some(more) = rest.strip_prefix('|') {
                    *rest = more;
                    choices.push(parse_list(rest));
                }
                *rest = rest.strip_prefix(')').expect("a closed parenthesis");
                parts.push(Part::OneOf(choices));
            }
            _ => {
                let end = rest.find([' ', '[', ']', '(', ')', '|']).unwrap_or(rest.len());
                let (word, more) = rest.split_at(end);
                *rest = more;
                parts.push(match word.strip_prefix('$') {
                    Some("") | None => Part::Word(word.into()),
                    Some(name) => match name.strip_suffix('*') {
                        Some(name) => Part::Repeated(Box::new(Part::Variable(name.into()))),
                        None => Part::Variable(name.into()),
                    },
                });
            }
        }
    }
}

fn expand(parts: &[Part], words: &mut Words<'_>, command: &mut Command) {
    for part in parts {
        match part {
            Part::Word(word) => command.push(word.clone()),
            Part::Variable(name) => {
                let word = words.word(name);
                command.push(word);
            }
            Part::Optional(inner) => {
                if words.dice.percent(40) {
                    expand(inner, words, command);
                }
            }
            Part::OneOf(choices) => {
                let choice = words.dice.below(choices.len());
                expand(&choices[choice], words, command);
            }
            Part::Repeated(inner) => {
                for _ in 0..=words.dice.below(3) {
                    expand(std::slice::from_ref(inner), words, command);
                }
            }
        }
    }
}

type Table = Vec<(u32, Vec<Part>)>;

fn table<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Table {
    lines.into_iter().map(|(weight, line)| (*weight, parse(line))).collect()
}

/// The commands of the tables that a server knows.
pub struct Grammar {
    own: Table,
    foreign: Table,
    connection: Table,
    mode: Table,
    operator: Table,
    lasting: Vec<(u32, (Command, Command))>,
    reloads: Table,
}

impl Grammar {
    /// `has` tells whether the server knows a command.
    pub fn new(has: &mut dyn FnMut(&Command) -> bool, leave_out: &[&str]) -> Self {
        let kept = |line: &&Line| !leave_out.iter().any(|part| line.1.contains(part));
        let newer = NEWER.iter().filter(|(probe, _)| has(&plain(probe))).map(|(_, line)| line);
        let newer: Vec<_> = newer.collect();
        let lasting = LASTING.iter().map(|(n, (first, then))| (*n, (plain(first), plain(then))));
        Self {
            own: table(OWN),
            foreign: table(FOREIGN.iter().filter(kept).chain(newer)),
            connection: table(CONNECTION.iter().filter(kept)),
            mode: table(MODE),
            operator: table(OPERATOR.iter().filter(kept)),
            lasting: lasting.collect(),
            reloads: table(RELOADS.iter().filter(kept)),
        }
    }

    /// A command for an ordinary connection. It has exactly one reply.
    pub fn command(&self, dice: &mut Dice, learned: &Learned) -> Command {
        let table = match dice.below(100) {
            0..=51 => &self.own,
            52..=93 => &self.foreign,
            _ => &self.connection,
        };
        let mut command = fill(table, dice, learned);
        let spoiled = spoil(command.clone(), dice, learned);
        // Commands about connections and all data are not damaged: they could become others, with
        // replies that cannot be counted. No command becomes [`HISTORY`] either.
        let may_be_spoiled = !std::ptr::eq(table, &raw const self.connection)
            && (command[0] != b"XREADGROUP" || spoiled.last().is_some_and(|last| last == b">"));
        if dice.percent(9) && may_be_spoiled {
            command = spoiled;
        }
        command
    }

    /// A command of the module.
    pub fn own(&self, dice: &mut Dice, learned: &Learned) -> Command {
        fill(&self.own, dice, learned)
    }

    /// A command that changes how the connection is answered.
    pub fn mode(&self, dice: &mut Dice, learned: &Learned) -> Command {
        fill(&self.mode, dice, learned)
    }

    /// The next command of the operator, and the one that ends it.
    pub fn operator(
        &self,
        dice: &mut Dice,
        learned: &Learned,
        reload: bool,
    ) -> (Command, Option<Command>) {
        let once = fill(&self.operator, dice, learned);
        let lasting = dice.weighted(&self.lasting).clone();
        let reloading = fill(&self.reloads, dice, learned);
        match dice.below(100) {
            0..=14 => (lasting.0, Some(lasting.1)),
            15..=18 if reload => (reloading, None),
            _ if once == plain("FUNCTION FLUSH") => (once, Some(library())),
            _ => (once, None),
        }
    }

    /// A transaction.
    pub fn transaction(&self, dice: &mut Dice, learned: &Learned) -> Vec<Command> {
        let mut commands = vec![plain("MULTI")];
        for _ in 0..=dice.below(5) {
            commands.push(self.command(dice, learned));
        }
        commands.push(plain(if dice.percent(90) { "EXEC" } else { "DISCARD" }));
        commands
    }

    /// A script or function with several commands.
    pub fn script(&self, dice: &mut Dice, learned: &Learned) -> Command {
        let mut call = match dice.below(3) {
            0 => vec![b"EVAL".to_vec(), script().into_bytes(), b"0".to_vec()],
            1 => vec![b"FCALL".to_vec(), FUNCTION.into(), b"0".to_vec()],
            _ => {
                // A key is declared.
                let key = Words::new(dice, learned).word("key");
                vec![b"EVAL".to_vec(), script().into_bytes(), b"1".to_vec(), key]
            }
        };
        for _ in 0..=dice.below(4) {
            let command = self.command(dice, learned);
            call.push(command.len().to_string().into());
            call.extend(command);
        }
        call
    }
}

fn fill(table: &Table, dice: &mut Dice, learned: &Learned) -> Command {
    let mut command = Command::new();
    let parts = dice.weighted(table);
    expand(parts, &mut Words::new(dice, learned), &mut command);
    command
}

/// Damages a command in a way that no client library does.
fn spoil(mut command: Command, dice: &mut Dice, learned: &Learned) -> Command {
    let hostile = Words::new(dice, learned).hostile();
    let place = 1 + dice.below(command.len().saturating_sub(1));
    let other = 1 + dice.below(command.len().saturating_sub(1));
    let kind = dice.below(10);
    if place >= command.len() || other >= command.len() {
        return command;
    }
    match kind {
        0..=5 => command[place] = hostile,
        6 => drop(command.remove(place)),
        7 => command.push(hostile),
        8 => command.swap(place, other),
        _ => command.insert(place, command[other].clone()),
    }
    command
}

/// A command without variables.
pub fn plain(line: &str) -> Command {
    line.split(' ').map(Into::into).collect()
}
