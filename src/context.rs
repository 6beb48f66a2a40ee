//! The server together with the state of one family.

use crate::server::Server;
use std::rc::Rc;

/// What every command, timer and event of a family works with: the server, and the family's state.
pub struct Context<'a, F> {
    /// The server.
    pub server: &'a Server,
    /// The state of the family.
    pub family: &'a Rc<F>,
}

impl<F> Clone for Context<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Context<'_, F> {}
