//! What the process asks of the machine before it touches mail: no core dumps, no debugger, descriptors,
//! memory given back (promises 2 and 4).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Freed pages go back to the system after so many milliseconds: a burst of bodies must not stay resident.
const PURGE_DELAY_MS: std::ffi::c_long = 100;
/// `mi_option_purge_delay`: its place in mimalloc's `mi_option_e`; the bindings have no name for it.
const MI_OPTION_PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Hardens the process. A step that the machine refuses is logged, not fatal: the unit does the same from outside.
pub(super) fn harden() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "cannot make the process undumpable: set LimitCORE=0 in the unit");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "cannot forbid core dumps: set LimitCORE=0 in the unit");
    }
    // The allocator has an arena a thread: with huge pages each thread would hold 2 MiB for a few KiB in use, zeroed when it starts.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::warn!(%error, "cannot do without transparent huge pages: memory may be used generously");
    }
    // SAFETY: an option of the allocator, set once before any other thread runs.
    #[expect(unsafe_code, reason = "mimalloc has no safe way to set an option")]
    unsafe {
        libmimalloc_sys::mi_option_set(MI_OPTION_PURGE_DELAY, PURGE_DELAY_MS);
    }
}

/// Raises the soft limit of descriptors to the hard one, and says so where it is too low for the configuration.
pub(super) fn raise_descriptors(wanted: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::warn!(soft, hard, "cannot raise the limit of open files");
    }
    if hard < wanted {
        tracing::warn!(
            limit = hard,
            wanted,
            "fewer open files are allowed than smtp.max_connections and forward.workers may need: raise LimitNOFILE"
        );
    }
}
