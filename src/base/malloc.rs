//! Settings of the C library's allocator, for a server with many threads on a small host.
//!
//! By default glibc keeps an arena for nearly every thread. It also raises the size up to which it
//! keeps freed blocks whenever a large one is freed: after a hundred requests of 4 MiB the server
//! would hold some 80 MiB that it never uses again. glibc reads its settings from the environment
//! at the start of a process, so `serve` executes itself once more, with the same process id.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::base::log;

const VARIABLE: &str = "GLIBC_TUNABLES";
/// Freed blocks of 512 KiB and more are returned to the system, and all threads share four arenas.
/// Free memory at the top of the heap is returned from 4 MiB on: if only the first value is set,
/// that threshold is 128 KiB, and a busy thread requests the same pages again and again.
const SETTINGS: &str = "glibc.malloc.mmap_threshold=524288:glibc.malloc.arena_max=4:glibc.malloc.trim_threshold=4194304";

/// Executes the program again with the settings, unless the environment has some. Returns if that
/// is not needed or fails; the server then works, with more memory.
pub fn configure(args: &[String]) {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let error = Command::new(program)
            .args(args)
            .env(VARIABLE, SETTINGS)
            .exec();
        log::debug(format_args!(
            "cannot execute the program again with {VARIABLE}: {error}"
        ));
    }
}

/// Returns free memory to the system: glibc keeps freed blocks between blocks in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "only the C library has this function")]
pub fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it is declared as in malloc.h, accepts any number, and may be called by any thread at
    // any time.
    unsafe {
        malloc_trim(0);
    }
}

/// Other C libraries return free memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}
