//! How much work one run of a timer may do before the server attends to its other clients.

/// What is left of a budget.
pub struct Budget {
    bytes: usize,
    steps: usize,
}

impl Budget {
    /// The budget of one wave of replies: some milliseconds of work, and `bytes` of replies.
    pub fn new(bytes: usize) -> Self {
        const STEPS: usize = 256;
        Self { bytes, steps: STEPS }
    }

    /// Whether the rest has to wait for the next wave.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.steps == 0
    }

    /// Spends one step and the bytes of one reply. The first reply always fits, so every wave makes
    /// progress.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.spend_steps(1);
    }

    /// Spends steps that reply nothing.
    pub fn spend_steps(&mut self, steps: usize) {
        self.steps = self.steps.saturating_sub(steps);
    }
}
