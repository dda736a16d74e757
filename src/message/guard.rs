//! Runs code of the MIME parser so that its panic ends as "no result", and says nothing of what it worked on.
//!
//! A panic's text may quote the string that was cut wrongly, so for guarded code the process's panic hook is given
//! only the fact: logged is the place in the source, never the message.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// `None` if `work` panicked.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(place, "the MIME parser gave up on a message");
            } else {
                previous(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    // Nothing that `work` could leave half-done is used again: what it had made is dropped with it.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::quietly;

    #[test]
    fn a_panic_is_no_result_and_the_thread_goes_on() {
        assert_eq!(quietly(|| 1), Some(1));
        let fails = || -> u8 { panic!("with octets of a body") };
        assert_eq!(quietly(fails), None);
        assert_eq!(quietly(|| quietly(fails)), Some(None));
        assert_eq!(quietly(|| 2), Some(2));
    }
}
