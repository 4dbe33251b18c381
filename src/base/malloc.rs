//! How the C library's allocator keeps memory, set for a server of many threads on a small host.
//!
//! By default glibc keeps an arena for nearly every thread and raises the size up to which freed
//! blocks stay with the process whenever a large one is freed: after a hundred requests of 4 MiB
//! the server would hold some 80 MiB that it never uses again. These settings can only be given in
//! the environment of a new process, so `serve` starts over once, as the same process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
/// Blocks from 512 KiB go back to the system when they are freed; four arenas for all threads. What is free
/// at the top of the heap goes back from 4 MiB on: naming the first alone would leave that at 128 KiB,
/// and a busy thread would ask for the same pages again and again.
const SETTINGS: &str = "glibc.malloc.mmap_threshold=524288:glibc.malloc.arena_max=4:glibc.malloc.trim_threshold=4194304";

/// Starts the program over with the settings, unless there are some already. Returns when that is
/// not needed or not possible; then everything works, with more memory.
pub fn settle(args: &[String]) {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let error = Command::new(program)
            .args(args)
            .env(VARIABLE, SETTINGS)
            .exec();
        crate::base::log::debug(format_args!("cannot start over for {VARIABLE}: {error}"));
    }
}

/// Gives free memory back to the system: glibc keeps what was freed between blocks that are in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the function is known to the C library alone")]
pub fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it is declared as in malloc.h, takes any number, and may be called by any thread at any time.
    unsafe {
        malloc_trim(0);
    }
}

/// Other libraries give it back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}
