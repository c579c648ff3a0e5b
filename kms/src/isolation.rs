//! What the process gives up before it opens a token, so that whoever takes it over by a module's fault can do less: system
//! calls that no KMS makes fail with EPERM (seccomp(2)), and no program that it could start has more rights (no_new_privs).
//!
//! What a module may write cannot be known here, and is left to the unit of systemd (`ProtectSystem`, `ReadWritePaths`).

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// System calls that no KMS makes, and no PKCS#11 module needs that starts no programs.
const DENIED: &[i64] = &[
    // Other programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another view of the files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // The kernel itself, and much of it that is seldom used.
    libc::SYS_kexec_load,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_syslog,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// By which the same calls are known in the x32 ABI, which the filter cannot tell from this one; and those that have numbers
/// of their own there: execve, ptrace, kexec_load, process_vm_readv, process_vm_writev, execveat
/// (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
const X32: (i64, [i64; 6]) = (0x4000_0000, [520, 521, 528, 539, 540, 545]);

/// What became of it.
#[derive(Debug)]
pub(crate) enum Isolation {
    /// System calls are restricted.
    On,
    /// The configuration does not want it.
    Off,
    /// The kernel, or this program on this processor, cannot.
    Unsupported(String),
}

/// Why the process must not go on.
#[derive(Debug, thiserror::Error)]
#[error(
    "system calls cannot be restricted: {0}; its unit must let the KMS do so (`SystemCallFilter=seccomp`), or \
     `restrict_system_calls = false` does without"
)]
pub(crate) struct IsolationError(seccompiler::Error);

impl Isolation {
    /// Gives the system calls up for this process, all its threads, and whatever comes of it.
    ///
    /// # Errors
    /// [`IsolationError`]
    pub(crate) fn begin(is_wanted: bool) -> Result<Isolation, IsolationError> {
        if !is_wanted {
            return Ok(Isolation::Off);
        }
        let filter = match TargetArch::try_from(std::env::consts::ARCH) {
            Ok(processor) => filter(processor).map_err(|error| IsolationError(error.into()))?,
            Err(error) => return Ok(Isolation::Unsupported(error.to_string())),
        };
        match seccompiler::apply_filter_all_threads(&filter) {
            Ok(()) => Ok(Isolation::On),
            Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error))
                if is_unknown(&error) =>
            {
                Ok(Isolation::Unsupported(format!("this kernel has no seccomp: {error}")))
            }
            Err(error) => Err(IsolationError(error)),
        }
    }

    /// Says in the log what became of it, where that is not what should be.
    pub(crate) fn report(&self) {
        match self {
            Isolation::On => {}
            Isolation::Off => {
                tracing::warn!("system calls are not restricted: `restrict_system_calls` is false")
            }
            Isolation::Unsupported(why) => {
                tracing::warn!(%why, "system calls are not restricted: keep the KMS's machine free of all else");
            }
        }
    }
}

fn filter(processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let denied = DENIED.iter().copied();
    #[cfg(target_arch = "x86_64")]
    let denied = denied.chain(DENIED.iter().chain(&X32.1).map(|call| X32.0 | *call));
    let rules: BTreeMap<i64, Vec<_>> = denied.map(|call| (call, Vec::new())).collect();
    let error = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    // A vendor's module sees an error, and goes another way; were it killed, the KMS were, too.
    SeccompFilter::new(rules, SeccompAction::Allow, error, processor)?.try_into()
}

/// Whether the kernel does not know what it was asked for.
fn is_unknown(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_is_restricted_starts_no_program_and_does_all_else() {
        // In a thread of its own: what is given up does not come back.
        let restricted = std::thread::spawn(|| {
            let processor = TargetArch::try_from(std::env::consts::ARCH).expect("known");
            seccompiler::apply_filter(&filter(processor).expect("a filter")).expect("a kernel with seccomp");
            let started = Command::new("true").status().expect_err("denied");
            assert_eq!(started.kind(), ErrorKind::PermissionDenied);
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
            assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"), "{status}");
            std::thread::spawn(|| tempfile::tempdir().expect("a directory")).join().expect("a thread");
        });
        restricted.join().expect("all as it should be");
        assert!(Command::new("true").status().expect("this thread is not restricted").success());
    }

    #[test]
    fn a_kernel_that_does_not_know_of_it_is_told_from_one_that_refuses() {
        assert!(is_unknown(&Errno::INVAL.into()) && is_unknown(&Errno::NOSYS.into()));
        assert!(!is_unknown(&Errno::PERM.into()) && !is_unknown(&io::Error::other("another")));
    }
}
