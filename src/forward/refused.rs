//! Why a job was not taken to its endpoint. Pure.

/// A job that was not taken; its body is dropped, the endpoint was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    QueueFull,
    /// The jobs in front of it would take all its time.
    WaitTooLong,
    /// Less time was left than the endpoint takes.
    TooLate,
    BreakerOpen,
    /// The endpoint asked to be left alone for a while (`Retry-After`).
    Paused,
    Draining,
    /// The rendered request does not fit the memory budget.
    OverBudget,
}
