//! Bars and verdicts.
//!
//! A bar is the least that the module must reach. It is missed only if the result is worse than the
//! bar by more than the noise that the bench itself has measured. Otherwise a busy machine would
//! decide.
//! - The noise of a ratio of processor times is the distance from its median to its upper quartile.
//!   The bar is missed if more than three quarters of the rounds are below it.
//! - The noise of a time is twice the lateness of a thread that only sleeps, at the same percentile
//!   and during the same measurement: the server and the client wake up one after the other.
//! - A count has no noise, unless a comment at the measurement says otherwise.
//!
//! Rows without a bar are for information only.

use std::fmt;

/// How a result compares with its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The bar is reached.
    Ok,
    /// The bar is not reached, but the noise may be the reason.
    Noise,
    /// The bar is missed.
    Missed,
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
            _ => Self::Missed,
        }
    }

    /// The cell of a bar in a table.
    pub fn cell(self, bar: &str) -> String {
        format!("{bar} {self}")
    }

    /// The bar of a cell that reports a missed bar.
    pub fn missed_bar(cell: &str) -> Option<&str> {
        cell.strip_suffix(&format!(" {}", Self::Missed))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ok => "ok",
            Self::Noise => "noise",
            Self::Missed => "MISSED",
        })
    }
}
