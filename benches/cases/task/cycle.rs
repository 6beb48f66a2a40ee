//! The life of a task with a round trip for each step: a producer publishes, workers wait, take one task
//! at a time and acknowledge it.

use super::super::Study;
use super::{empty_stream, payload, task_in, xadd};
use crate::measure::{CpuClock, Effort, Lab, Spread};
use crate::support::{SOON, args};
use crate::swarm::{Event, Swarm};
use crate::table::Column;
use crate::wire::encoded;
use std::time::{Duration, Instant};

/// The studies.
pub const STUDIES: &[Study] = &[Study {
    name: "tasks are published, consumed, acknowledged",
    columns: &[
        Column("tasks are published, consumed, acknowledged", 43, false),
        Column("Corral", 8, true),
        Column("XREADGROUP", 10, true),
        Column("ratio", 5, true),
        Column("quartiles", 9, true),
        Column("CPU ratio", 9, true),
    ],
    run: cycles,
}];

/// The commands that move the tasks.
#[derive(Clone, Copy, PartialEq)]
pub enum Style {
    /// TASK.PUBLISH, TASK.CONSUME with BLOCK, TASK.ACK.
    Corral,
    /// XADD, XREADGROUP BLOCK, XACK and XDEL in one write.
    Native,
}

/// How the tasks arrive.
#[derive(Clone, Copy, PartialEq)]
enum Supply {
    /// There are as many tasks in flight as workers, so most workers wait.
    Trickle,
    /// All tasks are published before the workers start.
    Backlog,
}

fn cycles(effort: Effort) -> Vec<Vec<String>> {
    let (rounds, tasks) = (effort.rounds.min(9), effort.commands / 4);
    let mut lab = Lab::new(effort);
    let clock = CpuClock::of(&lab.server);
    let mut rows = Vec::new();
    for (supply, how) in [(Supply::Trickle, "as they arrive"), (Supply::Backlog, "from a backlog")]
    {
        for size in [1, 10, 50] {
            let mut crews =
                [Style::Corral, Style::Native].map(|style| Crew::new(&lab, style, size));
            let mut samples = Vec::new();
            // The first round is a warm-up.
            for round in 0..=rounds {
                let sample = crews.each_mut().map(|crew| {
                    lab.prepare(&empty_stream(&crew.stream));
                    crew.work(&clock, tasks, supply)
                });
                if round > 0 {
                    samples.push(sample);
                }
            }
            let spread =
                |of: &dyn Fn(&[Sample; 2]) -> f64| Spread::of(samples.iter().map(of).collect());
            let each = |time: Duration| time.as_secs_f64() / tasks as f64;
            let rate = |style: usize| spread(&|sample| 1.0 / each(sample[style].wall)).median;
            let faster = spread(&|sample| each(sample[1].wall) / each(sample[0].wall));
            let cheaper = spread(&|sample| each(sample[1].cpu) / each(sample[0].cpu));
            rows.push(vec![
                format!("{size} worker{}, {how}", if size == 1 { "" } else { "s" }),
                format!("{:.0}/s", rate(0)),
                format!("{:.0}/s", rate(1)),
                format!("{:.2}", faster.median),
                format!("{:.2}-{:.2}", faster.low, faster.high),
                format!("{:.2}", cheaper.median),
            ]);
        }
    }
    rows
}

/// The cost of the tasks of a round.
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// The workers of one queue. The last member of the swarm is the producer.
struct Crew {
    style: Style,
    stream: String,
    swarm: Swarm,
    size: usize,
    /// The consume command of each worker.
    asks: Vec<Vec<u8>>,
    publish: Vec<u8>,
    states: Vec<State>,
    /// The number of requested tasks, and the number of tasks in this round.
    asked: usize,
    tasks: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Idle,
    Asking,
    Finishing,
    /// The producer, with the number of replies that are missing.
    Publishing(usize),
}

impl Crew {
    fn new(lab: &Lab, style: Style, size: usize) -> Self {
        let stream = format!("cycle:{size}:{}", style as u32);
        Self {
            style,
            swarm: Swarm::new(&lab.server, size + 1),
            size,
            asks: (0..size).map(|member| style.ask(&stream, &format!("w{member}"))).collect(),
            publish: style.publish(&stream),
            states: vec![State::Idle; size + 1],
            stream,
            asked: 0,
            tasks: 0,
        }
    }

    /// Publishes and processes the tasks of a round.
    fn work(&mut self, clock: &CpuClock, tasks: usize, supply: Supply) -> Sample {
        const BATCH: usize = 500;
        (self.asked, self.tasks) = (0, tasks);
        let (mut published, mut owed, mut done) = (0, 0, 0);
        while supply == Supply::Backlog && published < tasks {
            let some = BATCH.min(tasks - published);
            self.publish(some);
            (0..some).for_each(|_| self.swarm.reply(self.size, |_| ()));
            published += some;
        }
        self.states[self.size] = State::Idle;
        let (cpu, wall) = (clock.now(), Instant::now());
        (0..self.size).for_each(|member| self.ask(member));
        if supply == Supply::Trickle {
            owed = self.size.min(tasks);
        }
        while done < tasks || self.states[self.size] != State::Idle {
            if owed > 0 && self.states[self.size] == State::Idle {
                self.publish(owed);
                published += owed;
                owed = 0;
            }
            let Some(Event::Reply(member)) = self.swarm.next(Instant::now() + SOON) else {
                panic!("no event: {done} of {tasks} tasks are done");
            };
            match self.states[member] {
                State::Asking => self.finish(member),
                State::Finishing => {
                    self.finished(member);
                    done += 1;
                    owed += usize::from(published + owed < tasks);
                    self.ask(member);
                }
                State::Publishing(count) => {
                    (0..count).for_each(|_| self.swarm.reply(member, |_| ()));
                    self.states[member] = State::Idle;
                }
                State::Idle => panic!("a reply without a request"),
            }
        }
        let wall = wall.elapsed();
        Sample { wall, cpu: clock.now() - cpu }
    }

    fn publish(&mut self, count: usize) {
        self.states[self.size] = State::Publishing(count);
        self.swarm.send(self.size, &self.publish.repeat(count));
    }

    fn ask(&mut self, member: usize) {
        self.states[member] = State::Idle;
        if self.asked < self.tasks {
            self.asked += 1;
            self.states[member] = State::Asking;
            self.swarm.send(member, &self.asks[member]);
        }
    }

    fn finish(&mut self, member: usize) {
        let (style, stream) = (self.style, &self.stream);
        let finish = self.swarm.reply(member, |reply| {
            let (id, _) = task_in(reply).expect("a worker waits until it gets a task");
            style.finish(stream, id)
        });
        self.states[member] = State::Finishing;
        self.swarm.send(member, &finish);
    }

    fn finished(&mut self, member: usize) {
        for _ in 0..self.style.finishing() {
            self.swarm.reply(member, |reply| assert_eq!(reply, b":1\r\n"));
        }
    }
}

impl Style {
    /// The command that publishes a task.
    pub fn publish(self, stream: &str) -> Vec<u8> {
        match self {
            Self::Corral => encoded(&args!["TASK.PUBLISH", stream, payload()]),
            Self::Native => encoded(&xadd(stream, "*")),
        }
    }

    /// The command that takes a task, and waits for one without a timeout.
    pub fn ask(self, stream: &str, worker: &str) -> Vec<u8> {
        match self {
            Self::Corral => encoded(&args!["TASK.CONSUME", "workers", worker, stream, 1, 0]),
            Self::Native => {
                let read = args!["XREADGROUP", "GROUP", "workers", worker, "COUNT", 1, "BLOCK", 0];
                encoded(&[&read[..], &args!["STREAMS", stream, ">"]].concat())
            }
        }
    }

    /// The commands that finish a task.
    pub fn finish(self, stream: &str, id: &[u8]) -> Vec<u8> {
        match self {
            Self::Corral => encoded(&args!["TASK.ACK", stream, "workers", id]),
            Self::Native => {
                let mut both = encoded(&args!["XACK", stream, "workers", id]);
                both.extend(encoded(&args!["XDEL", stream, id]));
                both
            }
        }
    }

    /// The number of replies to [`Style::finish`], each of which is 1.
    pub fn finishing(self) -> usize {
        match self {
            Self::Corral => 1,
            Self::Native => 2,
        }
    }
}
