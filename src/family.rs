//! What the module expects of each family of commands beside the commands themselves.

use crate::context::Context;
use crate::interest::Interest;
use crate::server::config::Setting;
use crate::server::events::KeyEvent;
use crate::server::timer::OnFire;
use crate::time::Moment;
use crate::waiting::Waiting;
use std::rc::Rc;

/// The state of a family, which lives as long as the module. Tables in it have their own `RefCell`
/// each and never call the server while it is borrowed: an inner command can raise events, or run
/// another command of the same family, before it returns.
pub trait Family: Waiting {
    /// The name of its gauge of waiting clients in INFO.
    const WAITERS: &'static str;

    /// The name of its gauge of leases that are tied to connections in INFO.
    const TIES: &'static str;

    /// An empty state. `on_fire` runs the family's timer; `wave_bytes` limits a wave of replies; the
    /// names of which it remembers something are noted in `interest`.
    fn new(on_fire: OnFire, wave_bytes: Setting, interest: &Rc<Interest>) -> Self;

    /// Its settings.
    fn settings(&self) -> Vec<Setting>;

    /// Its totals in INFO.
    fn counters(&self, show: &mut dyn FnMut(&'static str, u64));

    /// The name to which a key belongs, if the family derives such keys and has to know when one is
    /// changed.
    fn owner(_key: &[u8]) -> Option<&[u8]> {
        None
    }

    /// A key was changed of which something may be remembered, or of whose [`Family::owner`]. Must not write, and must not borrow more than the family's own tables.
    fn key_changed(cx: Context<'_, Self>, event: KeyEvent<'_>);

    /// Databases were flushed, swapped or replaced; all of them if none is given. Forgets what it
    /// remembers of their data. Clients go on waiting, as with the server's own blocking commands.
    fn databases_changed(&self, dbs: &[i32]);

    /// The server's periodic event: drops data that is no longer needed. It must not write.
    fn periodic(&self, _now: Moment) {}
}
