//! Bars and verdicts.
//!
//! A bar is what the module shall reach. Some bars are not reached yet, and some are above what a relay
//! reaches, a module that does nothing but run commands of the server. So a bar that is missed does not
//! fail the bench. What fails it is a regression: a result that is much worse than the module has been.
//! - A ratio of processor times is a regression if it is more than a fifth below its bar, or, where the
//!   bar has not been reached, more than a fifth below the ratio that has. More than three quarters of
//!   the rounds must say so. The ratios are recorded on one version of the server ([`RECORDED`]); what a
//!   module costs beside native commands differs on others, where two fifths are a regression.
//! - A time or a count that has a bar reaches it, so a miss is a regression, beyond the noise that the
//!   bench itself has measured. The noise of a time is twice the lateness of a thread that only sleeps,
//!   at the same percentile and during the same measurement: the server and the client wake up one
//!   after the other. A count has no noise, unless a comment at the measurement says otherwise.
//!
//! Rows without a bar are for information only.

use std::fmt;

/// The bar of a ratio: the processor time of the other contender / of ours.
#[derive(Clone, Copy)]
pub struct Bar {
    /// What the module shall reach, with a pipeline of [`PIPELINE`] commands.
    pub goal: f64,
    /// The ratio that it has reached, with the same pipeline on the server [`RECORDED`], or on Redis 8.10
    /// where that server has no such command. A higher one replaces it here.
    pub reached: f64,
}

/// The version of the server on which ratios are recorded.
pub const RECORDED: &str = "Redis 7.0.";

/// The pipeline to which the bars of ratios apply.
pub const PIPELINE: usize = 16;

/// What every ratio with a bar shall reach if each connection sends one command at a time.
const ONE_AT_A_TIME: f64 = 0.92;

/// The part of a ratio below which a result is a regression.
const FLOOR: f64 = 0.8;

/// What may be left of a recorded ratio on another version of the server.
const ELSEWHERE: f64 = 0.75;

impl Bar {
    /// The bar with a pipeline of that many commands on this version of the server, if there is one.
    pub fn at(self, pipeline: usize, server: &str) -> Option<Self> {
        let Self { goal, reached } = match pipeline {
            1 => Self { goal: ONE_AT_A_TIME, reached: ONE_AT_A_TIME },
            PIPELINE => self,
            _ => return None,
        };
        let reached = if server.starts_with(RECORDED) { reached } else { reached * ELSEWHERE };
        Some(Self { goal, reached })
    }

    /// A median ratio below this is a regression.
    pub fn floor(self) -> f64 {
        FLOOR * self.goal.min(self.reached)
    }

    /// The verdict on a ratio: its median, its upper quartile, and the ratio of a relay.
    pub fn verdict(self, median: f64, high: f64, relay: Option<f64>) -> Verdict {
        match self {
            bar if high < bar.floor() => Verdict::Regression,
            bar if median >= bar.goal => Verdict::Ok,
            bar if high >= bar.goal => Verdict::Noise,
            bar if relay.is_some_and(|relay| relay < bar.goal) => Verdict::OutOfReach,
            _ => Verdict::Missed,
        }
    }
}

/// The bar of an amount of memory, in bytes.
#[derive(Clone, Copy)]
pub struct Budget {
    /// The most that the module shall need.
    pub goal: f64,
    /// What it has needed.
    pub reached: f64,
}

impl Budget {
    /// The verdict on an amount, which is the same in every run. A regression is a quarter above the goal,
    /// or above what it has been.
    pub fn verdict(self, amount: f64) -> Verdict {
        match self {
            Self { goal, .. } if amount <= goal => Verdict::Ok,
            Self { goal, reached } if amount <= goal.max(reached) / FLOOR => Verdict::Missed,
            _ => Verdict::Regression,
        }
    }
}

/// How a result compares with its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The bar is reached.
    Ok,
    /// The bar is not reached, but the noise may be the reason.
    Noise,
    /// The bar is not reached.
    Missed,
    /// The bar is not reached, and a relay does not reach it either.
    OutOfReach,
    /// The result is worse than it has been.
    Regression,
}

impl Verdict {
    /// The verdict on a result that must be at least `bar`.
    pub fn at_least(result: f64, bar: f64, noise: f64) -> Self {
        Self::shortfall(bar - result, noise)
    }

    /// The verdict on a result that must be at most `bar`.
    pub fn at_most(result: f64, bar: f64, noise: f64) -> Self {
        Self::shortfall(result - bar, noise)
    }

    /// The verdict on a time that must be at most `bar`. `jitter` is how late a sleeping thread wakes up.
    pub fn in_time(time: f64, bar: f64, jitter: f64) -> Self {
        Self::at_most(time, bar, 2.0 * jitter)
    }

    fn shortfall(shortfall: f64, noise: f64) -> Self {
        match shortfall {
            by if by <= 0.0 => Self::Ok,
            by if by <= noise => Self::Noise,
            _ => Self::Regression,
        }
    }

    /// The cell of a bar in a table.
    pub fn cell(self, bar: &str) -> String {
        format!("{bar} {self}")
    }

    /// The bar of a cell that reports a regression.
    pub fn failed_bar(cell: &str) -> Option<&str> {
        cell.strip_suffix(&format!(" {}", Self::Regression))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ok => "ok",
            Self::Noise => "noise",
            Self::Missed => "missed",
            Self::OutOfReach => "out of reach",
            Self::Regression => "REGRESSION",
        })
    }
}
