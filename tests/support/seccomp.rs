//! A child for which a system call fails from its first moment on.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// A system call, its first argument where that matters, and the error.
#[derive(Clone, Copy)]
pub(crate) struct Forbidden {
    pub(crate) call: i64,
    pub(crate) argument: Option<u32>,
    pub(crate) error: i32,
}

const fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// For the command and its children.
pub(crate) fn forbid(command: &mut Command, forbidden: Forbidden) {
    // The lower half of the first argument stands behind the number, the architecture and the instruction.
    let matching = match forbidden.argument {
        None => vec![filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, forbidden.call as u32)],
        Some(argument) => vec![
            filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, forbidden.call as u32),
            filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 16),
            filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, argument),
        ],
    };
    let mut filters = vec![filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    filters.extend(matching);
    filters.push(filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | forbidden.error.cast_unsigned()));
    filters.push(filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let apply = move || {
        let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_ptr().cast_mut() };
        // SAFETY: both calls read plain values; `program` and what it names outlive the second.
        #[expect(unsafe_code, reason = "prctl has no safe form for filters")]
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls on data of its own; it allocates nothing.
    #[expect(unsafe_code, reason = "a seccomp filter has to be set between fork and exec")]
    unsafe {
        command.pre_exec(apply);
    }
}
